"""``FactorizedPSPHead`` against mmseg's ``PSPHead``."""

import copy
import functools
import statistics

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from pspnet_plugin.heads import FactorizedPSPHead
from tests.helpers.heads import BN, assert_equal_results, run
from tests.helpers.heads import both_heads as both_heads_of
from tests.helpers.maps import Convolutions, layouts
from tests.helpers.torch_features import skip_unless_computed

both_heads = functools.partial(both_heads_of, 'psp')


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    batch=st.integers(1, 3),
    in_channels=st.integers(1, 9),
    channels=st.integers(1, 5),
    pool_scales=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    align_corners=st.booleans(),
    norm_cfg=st.sampled_from([None, BN, {'type': 'SyncBN'}]),
    act_cfg=st.sampled_from([None, {'type': 'ReLU'}, {'type': 'LeakyReLU'}]),
    layout=layouts,
)
def test_outputs_and_all_gradients_equal_stock_in_eval(
    size, batch, in_channels, channels, pool_scales, align_corners, norm_cfg, act_cfg, layout
):
    torch.manual_seed(0)
    stock, ours = both_heads(
        in_channels=in_channels,
        channels=channels,
        pool_scales=tuple(pool_scales),
        align_corners=align_corners,
        norm_cfg=norm_cfg,
        act_cfg=act_cfg,
    )
    x = torch.randn(batch, in_channels, *size, dtype=torch.float64)
    expected = run(stock.double().eval(), x)
    ours, x = (a.double().to(memory_format=layout) for a in (ours.eval(), x))
    assert_equal_results(run(ours, x), expected)


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    batch=st.integers(3, 4),
    in_channels=st.integers(2, 9),
    pool_scales=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    align_corners=st.booleans(),
    layout=layouts,
)
def test_outputs_gradients_and_statistics_equal_stock_in_training(
    size, batch, in_channels, pool_scales, align_corners, layout
):
    torch.manual_seed(0)
    stock, ours = both_heads(
        in_channels=in_channels, pool_scales=pool_scales, align_corners=align_corners
    )
    # Samples of different brightness: a norm over a few equal values would amplify any rounding.
    x = torch.randn(batch, in_channels, *size, dtype=torch.float64)
    x = x + 3 * torch.randn(batch, in_channels, 1, 1, dtype=torch.float64)
    expected = run(stock.double().train(), x)
    ours, x = (a.double().to(memory_format=layout) for a in (ours.train(), x))
    assert_equal_results(run(ours, x), expected)
    for name, expected in stock.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], expected, rtol=1e-10, atol=0)


def test_what_mmseg_checks_of_its_own_head_holds():
    with pytest.raises(AssertionError):
        FactorizedPSPHead(in_channels=32, channels=16, num_classes=19, pool_scales=1)

    def norms(head):
        return [m for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    sizes = {'in_channels': 32, 'channels': 16, 'num_classes': 19}
    assert not norms(FactorizedPSPHead(**sizes))
    synced = norms(FactorizedPSPHead(**sizes, norm_cfg={'type': 'SyncBN'}))
    assert len(synced) == 5
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in synced)
    head = FactorizedPSPHead(**sizes, pool_scales=(1, 2, 3))
    assert [level[0].output_size for level in head.psp_modules] == [1, 2, 3]
    assert head([torch.randn(1, 32, 45, 45)]).shape == (1, 19, 45, 45)


def test_training_on_one_image_fails_as_stock_does():
    stock, ours = both_heads()
    messages = []
    for head in (stock, ours):
        with pytest.raises(ValueError) as failure:
            head.train()([torch.randn(1, 6, 9, 9)])
        messages.append(str(failure.value))
    assert messages[0] == messages[1]


def test_bottleneck_still_convolves_a_concatenation():
    stock, ours = both_heads()
    concatenation = torch.randn(2, 22, 9, 11)
    torch.testing.assert_close(ours.bottleneck(concatenation), stock.bottleneck(concatenation))


def test_shapes_are_found_without_memory_on_the_meta_device():
    stock, ours = both_heads(in_channels=8, channels=4)
    x = torch.empty(2, 8, 9, 7, device='meta')
    assert ours.to('meta')([x]).shape == stock.to('meta')([x]).shape


def error_ratio(results, stock, truth):
    return (results.double() - truth).norm() / (stock.double() - truth).norm()


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ('dtype', 'autocast'),
    [
        (torch.float32, False),
        (torch.bfloat16, False),
        (torch.bfloat16, True),
        (torch.float16, False),
        (torch.float16, True),
    ],
)
def test_rounding_errors_are_those_of_stock(dtype, autocast, layout):
    skip_unless_computed(dtype)
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        stock, ours = both_heads(in_channels=64, channels=16)
        heads = [head.eval().to(memory_format=layout) for head in (stock, ours)]
        if not autocast:
            heads = [head.to(dtype) for head in heads]
        x = torch.randn(2, 64, 33, 47).relu().to(dtype).to(memory_format=layout)
        with torch.no_grad():
            truth = copy.deepcopy(heads[0]).double()([x.double()])
            with torch.autocast(
                'cpu', torch.bfloat16 if dtype == torch.float32 else dtype, autocast
            ):
                expected, result = (head([x]) for head in heads)
        assert result.dtype == expected.dtype
        ratios.append(error_ratio(result, expected, truth))
    # A single ratio of two random errors says little.
    assert statistics.geometric_mean(ratios) <= 1.5


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_rounding_errors_of_a_wide_head_and_its_gradients_are_those_of_stock(layout):
    torch.manual_seed(0)
    stock, ours = both_heads(in_channels=512, channels=256)
    stock, ours = (head.eval().to(memory_format=layout) for head in (stock, ours))
    x = torch.randn(1, 512, 32, 33).relu().to(memory_format=layout)
    truth = run(copy.deepcopy(stock).double(), x.double())
    expected = run(stock, x)
    with Convolutions() as direct:
        results = run(ours, x)
    assert (256, 512, 3, 3) not in direct.weights, 'not convolved over tiles'
    ratios = {
        name: error_ratio(results[name], expected[name], truth[name]).item()
        for name in truth
        if not torch.equal(results[name], expected[name])
    }
    assert ratios.keys() >= {'output', 'x', 'bottleneck.conv.weight'}
    # What a CPU's own convolution rounds differs, so a single ratio has more room than their mean.
    assert statistics.geometric_mean(ratios.values()) <= 1.5
    assert max(ratios.values()) <= 3


def kept_bytes(head, x):
    """What the head's graph keeps for the backward pass, x and the parameters not counted."""
    known = {t.untyped_storage().data_ptr() for t in [x, *head.parameters(), *head.buffers()]}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = head([x])
    assert out.requires_grad
    return sum(size for storage, size in kept.items() if storage not in known)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_memory_kept_for_the_backward_pass_is_a_third_of_stock(layout):
    # Channels and positions in the proportions of 2048, 512, and 64 x 128.
    stock, ours = both_heads(in_channels=256, channels=64, num_classes=19, dropout_ratio=0.1)
    x = torch.randn(2, 256, 64, 128).to(memory_format=layout).requires_grad_()
    stock, ours = (head.train().to(memory_format=layout) for head in (stock, ours))
    assert kept_bytes(ours, x) <= 0.35 * kept_bytes(stock, x)
