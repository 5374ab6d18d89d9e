"""The factorized heads against mmseg's: ``PSPHead`` of one map, and those that take several."""

import copy
import statistics

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from mmcv.cnn import ConvModule, fuse_conv_bn
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from pspnet_plugin.heads.convolutions import PyramidConv2d
from tests.helpers.heads import BN, FAMILIES, assert_equal_results, both_heads, run
from tests.helpers.maps import LAYOUTS, Convolutions, layouts, sizes
from tests.helpers.torch_features import skip_unless_computed

OF_MAPS = [name for name in FAMILIES if name not in ('psp', 'plain')]
families = pytest.mark.parametrize('family', ['psp', *OF_MAPS])
side = st.tuples(sizes, sizes)
SIZES = [(9, 11), (5, 6), (3, 3)]


def random_maps(sides, batch, channels=(6, 6, 6)):
    """One map of each size; images differ in brightness, so that no norm amplifies rounding."""
    return [
        torch.randn(batch, c, *s, dtype=torch.float64)
        + 3 * torch.randn(batch, c, 1, 1, dtype=torch.float64)
        for s, c in zip(sides, channels)
    ]


def before(family, maps, classes=3):
    """What a head is called with besides the maps: OCR's second stage refines the first one's."""
    size = (len(maps[0]), classes, *maps[0].shape[2:])
    return (torch.randn(size, dtype=torch.float64),) if family == 'ocr' else ()


def inputs_of(family, batch=2, sides=SIZES, channels=(6, 6, 6)):
    """The maps, and what a head is called with besides them."""
    maps = random_maps(sides[:1] if family == 'psp' else sides, batch, channels)
    return maps, before(family, maps)


def sized(family, in_channels, pool_scales, **kwargs):
    """Stock's head and ours for maps of so many channels each."""
    if family in ('psp', 'uper'):
        kwargs['pool_scales'] = pool_scales
    if family == 'psp':
        return both_heads(family, in_channels=in_channels[0], **kwargs)
    in_index = list(range(len(in_channels)))
    return both_heads(family, in_channels=in_channels, in_index=in_index, **kwargs)


pools = st.lists(st.integers(1, 8), min_size=1, max_size=4).map(tuple)


@families
@settings(deadline=None, max_examples=50)
@given(
    sides=st.lists(side, min_size=2, max_size=4),
    batch=st.integers(1, 3),
    channels=st.lists(st.integers(1, 7), min_size=4, max_size=4),
    pool_scales=pools,
    align_corners=st.booleans(),
    norm_cfg=st.sampled_from([None, BN, {'type': 'SyncBN'}]),
    act_cfg=st.sampled_from([None, {'type': 'ReLU'}, {'type': 'LeakyReLU'}]),
    layout=layouts,
)
def test_outputs_and_all_gradients_equal_stock_in_eval(
    family, sides, batch, channels, pool_scales, layout, **kwargs
):
    torch.manual_seed(0)
    channels = channels[: len(sides)]
    if family == 'ocr':  # without activations, torch's own channels-last batch norm fails stock's
        kwargs['act_cfg'] = {'type': 'ReLU'}
    stock, ours = sized(family, channels, pool_scales, **kwargs)
    maps, more = inputs_of(family, batch, sides, channels)
    expected = run(stock.double().eval(), *maps, more=more)
    ours = ours.double().eval().to(memory_format=layout)
    maps = [x.to(memory_format=layout) for x in maps]
    assert_equal_results(run(ours, *maps, more=more), expected)


@families
@settings(deadline=None, max_examples=30)
@given(
    sides=st.tuples(side, side, side),
    batch=st.integers(3, 4),
    channels=st.lists(st.integers(2, 9), min_size=3, max_size=3),
    pool_scales=pools,
    align_corners=st.booleans(),
    layout=layouts,
)
def test_outputs_gradients_and_statistics_equal_stock_in_training(
    family, sides, batch, channels, pool_scales, layout, align_corners
):
    torch.manual_seed(0)
    stock, ours = sized(family, channels, pool_scales, align_corners=align_corners)
    maps, more = inputs_of(family, batch, sides, channels)
    expected = run(stock.double().train(), *maps, more=more)
    ours = ours.double().train().to(memory_format=layout)
    maps = [x.to(memory_format=layout) for x in maps]
    assert_equal_results(run(ours, *maps, more=more), expected)
    for name, expected in stock.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], expected, rtol=1e-10, atol=0)


@families
def test_second_derivatives_equal_stock_in_training(family):
    torch.manual_seed(0)
    heads, (maps, more) = both_heads(family), inputs_of(family, 3)
    results = []
    for head in heads:
        inputs = [x.clone().requires_grad_() for x in maps]
        wanted = [*inputs, *head.double().train().parameters()]
        first = torch.autograd.grad(head(inputs, *more).sin().sum(), wanted, create_graph=True)
        total = sum(gradient.sin().sum() for gradient in first)
        results.append([*first, *torch.autograd.grad(total, wanted)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-8)


@families
@pytest.mark.parametrize(
    'options',
    [
        {'norm_cfg': None},
        {'norm_cfg': BN},
        {'norm_cfg': {'type': 'SyncBN'}},
        {'init_cfg': {'type': 'Xavier', 'layer': 'Conv2d'}},
    ],
    ids=str,
)
def test_same_seed_gives_the_parameters_and_the_random_state_of_stock(family, options):
    states = []
    stock_class, our_class, small = FAMILIES[family]
    for cls in (stock_class, our_class):
        torch.manual_seed(3)
        head = cls(**{**small, **options})
        head.init_weights()
        states.append((list(head.state_dict().items()), torch.rand(1)))
    (stock, after_stock), (ours, after_ours) = states
    assert [name for name, _ in ours] == [name for name, _ in stock]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, stock))
    assert torch.equal(after_ours, after_stock)


@families
def test_losses_equal_stock_without_full_size_logits(family, monkeypatch):
    stock, ours = (head.double() for head in both_heads(family))
    maps, more = inputs_of(family)
    labels = torch.randint(3, (2, 1, 36, 44))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    expected = stock.loss(maps, *more, samples, {})
    full_size = []
    monkeypatch.setattr(
        'mmseg.models.decode_heads.decode_head.resize', lambda *a, **k: full_size.append(a)
    )
    for name, value in ours.loss(maps, *more, samples, {}).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)
    assert not full_size


@pytest.mark.parametrize(
    ('family', 'kwargs'),
    [
        *(
            (family, {'conv_cfg': {'type': 'ConvWS'}})
            for family in OF_MAPS
            if family != 'segformer'
        ),
        *(
            ('psp', {'conv_cfg': conv})
            for conv in (
                {'type': 'ConvWS'},
                {'type': 'Conv2dAdaptivePadding'},
                {'type': 'Conv2d', 'padding_mode': 'circular'},
            )
        ),
        ('psp', {'pool_scales': ()}),
        ('psp', {'pool_scales': ((1, 2), 3)}),
        ('uper', {'pool_scales': ((1, 2), 3)}),
        ('segformer', {'interpolate_mode': 'bicubic'}),
        ('fcn', {'concat_input': True}),
        ('fcn', {'dilation': 2}),
        ('fcn', {'num_convs': 0, 'channels': 18}),
        ('fcn', {'input_transform': None, 'in_channels': 6, 'in_index': 1}),
        ('ocr', {'input_transform': None, 'in_channels': 6, 'in_index': 1}),
    ],
    ids=str,
)
def test_what_cannot_be_split_takes_the_stock_arithmetic(family, kwargs):
    stock, ours = (head.double() for head in both_heads(family, **kwargs))
    maps, _ = inputs_of(family)
    more = before(family, maps[1:] if kwargs.get('in_index') == 1 else maps)
    assert_equal_results(run(ours, *maps, more=more), run(stock, *maps, more=more))


@families
def test_maps_are_never_concatenated(family):
    maps, more = inputs_of(family)
    maps = [x.to(memory_format=torch.channels_last) for x in maps]
    of_stock, of_ours = Convolutions(), Convolutions()
    stock, ours = (head.double() for head in both_heads(family))
    whole = {tuple(m.weight.shape) for m in ours.modules() if isinstance(m, PyramidConv2d)}
    assert whole
    for head, convolutions in ((stock, of_stock), (ours, of_ours)):
        with convolutions:
            head(maps, *more)
    assert whole <= set(of_stock.weights)
    assert not whole & set(of_ours.weights)


@families
def test_a_convolution_replaced_later_convolves_the_concatenation(family):
    stock, ours = (head.double() for head in both_heads(family))
    names = [name for name, m in ours.named_modules() if isinstance(m, PyramidConv2d)]
    for head in (stock, ours):
        torch.manual_seed(1)
        for name in names:
            parent, conv = head.get_submodule(name[: -len('.conv')]), head.get_submodule(name)
            dilated = [2 * (k // 2) for k in conv.kernel_size]
            parent.conv = nn.Conv2d(
                conv.in_channels, conv.out_channels, conv.kernel_size, padding=dilated, dilation=2
            ).double()
    maps, more = inputs_of(family)
    assert_equal_results(run(ours, *maps, more=more), run(stock, *maps, more=more))


def half_and_half(head):
    """What a run that freezes some of the layers leaves to train."""
    for parameter in list(head.parameters())[::2]:
        parameter.requires_grad_(False)
    return head


def normalize_weights(head):
    for module in list(head.modules()):
        if isinstance(module, nn.Conv2d) and module is not head.conv_seg:
            nn.utils.parametrizations.weight_norm(module)
    return head


def convolve_with_folded_weights(head):
    for module in head.modules():
        if isinstance(module, ConvModule):
            module.turn_on_efficient_conv_bn_eval()
    return head


@families
@pytest.mark.parametrize(
    'change',
    [fuse_conv_bn, copy.deepcopy, half_and_half, normalize_weights, convolve_with_folded_weights],
)
def test_what_changes_a_stock_head_changes_ours_alike(family, change):
    stock, ours = (change(head.double().eval()) for head in both_heads(family))
    maps, more = inputs_of(family)
    assert_equal_results(run(ours, *maps, more=more), run(stock, *maps, more=more))


@families
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    ('dtype', 'autocast'),
    [
        (torch.float32, None),
        (torch.bfloat16, None),
        (torch.float32, torch.bfloat16),
        (torch.float16, None),
        (torch.float32, torch.float16),
    ],
    ids=str,
)
def test_rounding_errors_are_those_of_stock(family, layout, dtype, autocast):
    skip_unless_computed(autocast or dtype)
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        stock, ours = sized(family, [64, 32, 16], (1, 2, 3, 6), channels=16)
        stock, ours = (head.eval().to(dtype).to(memory_format=layout) for head in (stock, ours))
        maps, more = inputs_of(family, 2, [(33, 47), (19, 26), (10, 13)], [64, 32, 16])
        maps = [x.to(dtype).to(memory_format=layout) for x in maps]
        more = [x.to(dtype) for x in more]
        exact = [[x.double() for x in maps], *(x.double() for x in more)]
        truth = copy.deepcopy(stock).double()(*exact)
        with torch.no_grad(), torch.autocast('cpu', autocast, enabled=autocast is not None):
            expected, result = (head(maps, *more) for head in (stock, ours))
        assert result.dtype == expected.dtype
        errors = [(out.double() - truth).norm() for out in (result, expected)]
        ratios.append((errors[0] / errors[1]).item())
    # A single ratio of two random errors says little.
    assert statistics.geometric_mean(ratios) <= 1.5
