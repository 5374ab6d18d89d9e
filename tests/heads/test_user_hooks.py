"""Heads whose modules carry hooks, or were replaced, against mmseg's own head treated alike."""

import re

import pytest
import torch
from torch import nn
from torch.nn.modules import module as registry
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from pspnet_plugin.heads import PlainPSPHead
from tests.helpers.heads import HOOK_KINDS, both_heads
from tests.helpers.maps import Convolutions

# Modules that are not called as in stock, and some that are.
PSP_NAMES = [
    'psp_modules',
    'psp_modules.1',
    'psp_modules.1.0',
    'bottleneck',
    'bottleneck.conv',
    'psp_modules.1.1',
    'bottleneck.bn',
    'conv_seg',
]
NAMES = {
    'psp': PSP_NAMES,
    'uper': [*PSP_NAMES, 'fpn_bottleneck', 'fpn_bottleneck.conv', 'fpn_convs.0.conv'],
    'segformer': ['fusion_conv', 'fusion_conv.conv', 'convs.1', 'fusion_conv.bn'],
    'fcn': ['convs', 'convs.0', 'convs.0.conv', 'convs.1', 'conv_seg'],
    'ocr': ['bottleneck', 'bottleneck.conv', 'spatial_gather_module'],
}
named_modules = pytest.mark.parametrize(
    ('family', 'name'), [(family, name) for family, names in NAMES.items() for name in names]
)


@pytest.fixture
def family():
    return 'psp'


@pytest.fixture
def heads(family):
    torch.manual_seed(0)
    kwargs = {'pool_scales': (1, 2, 3, 6)} if family in ('psp', 'uper') else {}
    stock, ours = both_heads(family, **kwargs)
    for head in (stock, ours):
        for module in head.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # which stock needs under backward hooks
    return stock.double().eval(), ours.double().eval()


def results(head):
    """The output and the gradients of the maps and of every parameter."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(9, 11), (5, 6), (3, 3)][: 1 if head.input_transform is None else 3]
    maps = [torch.randn(2, 6, *size, generator=generator).double() for size in sizes]
    inputs = [[x.requires_grad_() for x in maps]]
    if hasattr(head, 'spatial_gather_module'):  # the second stage of OCRNet
        inputs.append(torch.randn(2, 3, *sizes[0], generator=generator).double())
    out = head(*inputs)
    return [out, *torch.autograd.grad(out.square().sum(), [*maps, *head.parameters()])]


def assert_same_results(stock, ours):
    torch.testing.assert_close(results(ours), results(stock), rtol=1e-10, atol=1e-10)


def tensors(values):
    """All tensors among nested values, copied."""
    if isinstance(values, torch.Tensor):
        return [values.detach().clone()]
    if isinstance(values, (list, tuple)):
        return [tensor for value in values for tensor in tensors(value)]
    return []


def remember(seen):
    def hook(module, *values):
        name = re.sub('^(Pyramid|Same)', '', type(module).__name__)
        seen.append((name, tensors(values)))

    return hook


def assert_same_calls(ours, stock):
    assert [name for name, _ in ours] == [name for name, _ in stock]
    for (_, a), (_, b) in zip(ours, stock):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings('ignore:For backward hooks to be called')
@named_modules
@pytest.mark.parametrize('kind', HOOK_KINDS)
def test_hooks_are_called_with_what_stock_calls_them_with(heads, kind, name):
    calls = []
    for head in heads:
        calls.append([])
        getattr(head.get_submodule(name), f'register_{kind}')(remember(calls[-1]))
        results(head)
    # Of a module that returns a list, as the pyramid, torch calls no hook of the backward pass.
    assert calls[0] or name == 'psp_modules'
    assert_same_calls(calls[1], calls[0])


@pytest.mark.filterwarnings('ignore:For backward hooks to be called')
@pytest.mark.parametrize('family', NAMES)
@pytest.mark.parametrize('kind', HOOK_KINDS)
def test_global_hooks_see_every_module_that_they_see_in_stock(heads, kind):
    calls = []
    for head in heads:
        calls.append([])
        handle = getattr(registry, f'register_module_{kind}')(remember(calls[-1]))
        try:
            results(head)
        finally:
            handle.remove()
    assert calls[0]
    for seen in calls:  # the heads themselves differ in name alone
        seen[:] = [(name.replace('Factorized', ''), values) for name, values in seen]
    assert_same_calls(calls[1], calls[0])


@named_modules
def test_what_a_hook_returns_counts(heads, name):
    for head in heads:
        module = head.get_submodule(name)
        if name == 'psp_modules':
            module.register_forward_hook(lambda module, args, out: [2 * level for level in out])
        else:
            module.register_forward_hook(lambda module, args, out: 2 * out)
    assert_same_results(*heads)


def test_a_removed_hook_gives_the_fast_arithmetic_back(heads):
    _, head = heads
    handle = head.psp_modules[1].register_forward_hook(lambda *args: None)
    concatenation = tuple(head.bottleneck.conv.weight.shape)
    with Convolutions() as hooked:
        results(head)
    handle.remove()
    with Convolutions() as unhooked:
        results(head)
    assert concatenation in hooked.weights
    assert concatenation not in unhooked.weights


class SecondPower(nn.Module):
    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x.square(), 2)


class PowerPool(nn.AdaptiveAvgPool2d):
    def forward(self, x):
        return super().forward(x.square())


@pytest.mark.parametrize(
    'pool',
    [
        nn.AdaptiveMaxPool2d(2),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Softplus()),
        nn.AvgPool2d(3),
        nn.Identity(),
        SecondPower(),
        PowerPool(2),
    ],
    ids=str,
)
def test_a_replaced_pool_pools(heads, pool):
    for head in heads:
        head.psp_modules[1][0] = pool
    assert_same_results(*heads)


@pytest.mark.parametrize(
    'change',
    [
        lambda level: level.append(nn.Softplus()),
        lambda level: level.insert(0, nn.Softplus()),
        lambda level: setattr(level, 'forward', lambda x: level[1](x)),
        lambda level: setattr(level[0], 'forward', torch.sin),
        lambda level: setattr(level[0], 'output_size', 5),
    ],
    ids=['longer', 'prepended', 'forward', "pool's forward", 'output_size'],
)
def test_a_changed_level_counts(heads, change):
    for head in heads:
        change(head.psp_modules[1])
    assert_same_results(*heads)


def test_a_replaced_level_counts(heads):
    level = nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.Conv2d(6, 4, 1)).double()
    for head in heads:
        head.psp_modules[2] = level
    assert_same_results(*heads)


@pytest.mark.parametrize(
    ('family', 'name'),
    [
        *(('psp', name) for name in ('psp_modules', 'bottleneck', 'bottleneck.conv')),
        *(('uper', name) for name in ('psp_modules', 'bottleneck', 'fpn_bottleneck')),
        *(('segformer', name) for name in ('fusion_conv', 'fusion_conv.conv')),
        *(('fcn', name) for name in ('convs', 'convs.0')),
        ('ocr', 'bottleneck'),
    ],
)
def test_a_forward_put_on_a_module_runs(heads, name):
    for head in heads:
        module = head.get_submodule(name)
        forward = module.forward
        if name == 'psp_modules':
            module.forward = lambda x, forward=forward: [2 * level for level in forward(x)]
        else:
            module.forward = lambda x, forward=forward: 2 * forward(x[:, :])
    assert_same_results(*heads)


@pytest.mark.parametrize(
    'normalize',
    [weight_norm, spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm],
    ids=['weight_norm', 'spectral_norm', 'parametrized weight_norm', 'parametrized spectral_norm'],
)
@pytest.mark.filterwarnings('ignore:.*weight_norm:FutureWarning')
def test_a_normalized_bottleneck_is_normalized(heads, normalize):
    for head in heads:
        torch.manual_seed(2)
        normalize(head.bottleneck.conv)
        head.eval()
    assert_same_results(*heads)


# --- PlainPSPHead, whose own convolution also takes a concatenation -------------------------------


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return PlainPSPHead(6, (1, 2), num_classes=3).double().eval()


@pytest.mark.parametrize('register', ['register_forward_hook', 'register_forward_pre_hook'])
def test_hooks_of_the_last_convolution_see_the_concatenation(plain, register):
    seen = []
    expected = results(plain)
    getattr(plain.conv_seg, register)(lambda module, args, *out: seen.append(args[0]))
    torch.testing.assert_close(results(plain), expected, rtol=1e-10, atol=1e-10)
    assert seen[0].shape == (2, 12, 9, 11)


def test_the_last_convolution_may_be_replaced(plain):
    expected = results(plain)
    weights = plain.conv_seg.state_dict()
    plain.conv_seg = nn.Conv2d(12, 3, 1).double()
    plain.conv_seg.load_state_dict(weights)
    torch.testing.assert_close(results(plain), expected, rtol=1e-10, atol=1e-10)


def test_another_dropout_sees_the_concatenation(plain):
    seen = []
    plain.dropout = nn.Dropout(0.5)
    plain.dropout.register_forward_hook(lambda module, args, out: seen.append(out))
    plain.train()
    out = plain([torch.randn(2, 6, 9, 11, dtype=torch.float64)])
    assert [tuple(tensor.shape) for tensor in seen] == [(2, 12, 9, 11)]
    torch.testing.assert_close(out, plain.conv_seg(seen[0]))
