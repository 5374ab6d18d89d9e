"""The convolution over tiles against PyTorch's own."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from pspnet_plugin.ops import winograd
from pspnet_plugin.ops.conv2d import conv2d_same
from pspnet_plugin.ops.pyramid import conv2d_over_pyramid
from pspnet_plugin.ops.winograd import conv2d_3x3
from tests.helpers.maps import (
    LAYOUTS,
    Convolutions,
    LargestTensor,
    assert_same_with_gradients,
    layouts,
    random_map,
    sizes,
    stock_conv,
)


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), sizes, sizes),
    outputs=st.integers(1, 4),
    tiles=st.sampled_from([1, 7, 40, 512]),
    channels=st.sampled_from([2, 256]),
    x_layout=layouts,
    weight_layout=layouts,
)
def test_outputs_and_gradients_are_those_of_the_direct_sum(
    shape, outputs, tiles, channels, x_layout, weight_layout
):
    x = random_map(*shape, layout=x_layout)
    weight = random_map(outputs, shape[1], 3, 3, layout=weight_layout, seed=2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(winograd, 'TILES_AT_ONCE', tiles)
        patched.setattr(winograd, 'CHANNELS_AT_ONCE', channels)
        stock = F.conv2d(x, weight, padding=1)
        assert_same_with_gradients(conv2d_3x3(x, weight), stock, [x, weight])


@pytest.mark.parametrize('frozen', ['x', 'weight'])
def test_what_needs_no_gradient_gets_none(frozen):
    inputs = {'x': random_map(1, 3, 6, 7), 'weight': random_map(2, 3, 3, 3, seed=1)}
    inputs[frozen].requires_grad_(False)
    conv2d_3x3(**inputs).sum().backward()
    assert inputs.pop(frozen).grad is None
    assert next(iter(inputs.values())).grad.abs().sum() > 0


def test_second_derivatives_are_right():
    inputs = random_map(1, 2, 4, 5), random_map(2, 2, 3, 3, seed=1)
    assert torch.autograd.gradgradcheck(conv2d_3x3, inputs)


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_output_has_the_memory_format_of_the_map_and_can_be_changed_in_place(layout):
    x, weight = random_map(2, 8, 9, 7, layout=layout), random_map(4, 8, 3, 3)
    out = conv2d_3x3(x, weight)
    assert out.is_contiguous(memory_format=layout)
    out.add_(1).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_the_map_is_never_copied_as_a_whole(layout, monkeypatch):
    monkeypatch.setattr(winograd, 'TILES_AT_ONCE', 64)
    x = random_map(1, 64, 64, 32, layout=layout).detach()
    weight = random_map(8, 64, 3, 3)
    with LargestTensor(x) as largest:
        conv2d_3x3(x, weight).sum().backward()
    assert 0 < largest.elements <= 0.5 * x.numel()


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize('with_bias', [False, True])
def test_large_maps_are_convolved_over_tiles(layout, with_bias):
    x, weight = random_map(2, 256, 31, 34, layout=layout), random_map(256, 256, 3, 3, seed=2)
    bias = random_map(256, seed=3) if with_bias else None
    with Convolutions() as direct:
        ours = conv2d_same(x, weight, bias)
    assert not direct.weights
    inputs = [x, weight] + ([bias] if with_bias else [])
    assert_same_with_gradients(ours, F.conv2d(x, weight, bias, padding=1), inputs)


def test_the_large_map_of_a_pyramid_is_convolved_over_tiles():
    x, level = random_map(1, 256, 31, 34), random_map(1, 2, 3, 3, seed=1)
    weight = random_map(256, 258, 3, 3, seed=2)
    with Convolutions() as direct:
        ours = conv2d_over_pyramid(x, [level], weight)
    assert (256, 256, 3, 3) not in direct.weights
    assert_same_with_gradients(
        ours, stock_conv(x, [level], weight, None, False), [x, level, weight]
    )


@pytest.mark.parametrize(
    ('x_shape', 'weight_shape', 'dtype'),
    [
        ((1, 256, 32, 32), (256, 256, 3, 3), torch.bfloat16),
        ((1, 256, 31, 33), (256, 256, 3, 3), torch.float32),
        ((1, 256, 32, 32), (19, 256, 3, 3), torch.float32),
        ((1, 256, 32, 32), (256, 256, 1, 3), torch.float32),
    ],
    ids=['half precision', 'a small map', 'few outputs', 'another kernel'],
)
def test_elsewhere_pytorch_convolves(x_shape, weight_shape, dtype):
    x, weight = random_map(*x_shape, dtype=dtype), random_map(*weight_shape, dtype=dtype, seed=2)
    with Convolutions() as direct:
        out = conv2d_same(x, weight)
    assert direct.weights == [weight_shape]
    assert out.shape == (1, weight_shape[0], *x_shape[2:])


def test_under_autocast_and_in_exported_graphs_pytorch_convolves():
    x, weight = (
        random_map(*shape).detach().float() for shape in ((1, 256, 32, 32), (256, 256, 3, 3))
    )
    with Convolutions() as direct, torch.autocast('cpu', torch.bfloat16):
        assert conv2d_same(x, weight).dtype == torch.bfloat16
    assert direct.weights == [(256, 256, 3, 3)]
    traced = torch.jit.trace(lambda x: conv2d_same(x, weight), x, check_trace=False)
    assert 'aten::_convolution' in str(traced.graph)
