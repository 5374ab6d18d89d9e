"""The convolution over tiles against PyTorch's own."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch.utils._python_dispatch import TorchDispatchMode

from pspnet_plugin.ops import winograd
from pspnet_plugin.ops.pyramid import conv2d_over_pyramid
from pspnet_plugin.ops.winograd import conv2d_3x3
from tests.helpers.maps import (
    LAYOUTS,
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
def test_output_has_the_memory_format_of_the_plain_convolution(layout):
    x = random_map(2, 8, 9, 7, layout=layout)
    weight = random_map(4, 8, 3, 3)
    out = conv2d_3x3(x, weight)
    assert out.stride() == F.conv2d(x, weight, padding=1).stride()
    out.add_(1)  # is allowed to who asked for it


class Made(TorchDispatchMode):
    """The memory of all that operations return, in bytes, by address."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            memory = result.untyped_storage()
            self.sizes[memory.data_ptr()] = memory.nbytes()
        return result


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_the_map_is_never_copied_as_a_whole(layout, monkeypatch):
    monkeypatch.setattr(winograd, 'TILES_AT_ONCE', 64)
    x = random_map(1, 64, 64, 32, layout=layout).detach()
    weight = random_map(8, 64, 3, 3)
    with Made() as made:
        conv2d_3x3(x, weight).sum().backward()
    size_of_x = made.sizes.pop(x.data_ptr())  # which views of x return
    assert max(made.sizes.values()) <= 0.5 * size_of_x


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize('with_bias', [False, True])
def test_the_pyramid_takes_it_for_large_maps(layout, with_bias, monkeypatch):
    taken = []
    monkeypatch.setattr(winograd, 'conv2d_3x3', lambda *a: taken.append(1) or conv2d_3x3(*a))
    x, level = random_map(2, 256, 23, 24, layout=layout), random_map(2, 2, 3, 3, seed=1)
    weight = random_map(256, 258, 3, 3, layout=layout, seed=2)
    bias = random_map(256, seed=3) if with_bias else None
    ours = conv2d_over_pyramid(x, [level], weight, bias)
    inputs = [x, level, weight] + ([bias] if with_bias else [])
    assert_same_with_gradients(ours, stock_conv(x, [level], weight, bias, False), inputs)
    assert taken


@pytest.mark.parametrize(
    ('change', 'x_shape', 'weight_shape', 'dtype'),
    [
        ('half precision', (1, 256, 24, 24), (256, 258, 3, 3), torch.bfloat16),
        ('a small map', (1, 256, 20, 24), (256, 258, 3, 3), torch.float32),
        ('few outputs', (1, 256, 24, 24), (19, 258, 3, 3), torch.float32),
        ('another kernel', (1, 256, 24, 24), (256, 258, 1, 3), torch.float32),
    ],
)
def test_the_pyramid_takes_the_direct_sum_elsewhere(
    change, x_shape, weight_shape, dtype, monkeypatch
):
    monkeypatch.delattr(winograd, 'conv2d_3x3')
    x, level = random_map(*x_shape, dtype=dtype), random_map(1, 2, 3, 3, dtype=dtype, seed=1)
    out = conv2d_over_pyramid(x, [level], random_map(*weight_shape, dtype=dtype, seed=2))
    assert out.shape == (1, weight_shape[0], *x_shape[2:])


def test_autocast_and_exporters_get_the_direct_sum(monkeypatch):
    monkeypatch.delattr(winograd, 'conv2d_3x3')
    shapes = (1, 256, 24, 24), (1, 2, 3, 3), (256, 258, 3, 3)
    x, level, weight = (random_map(*shape).detach().float() for shape in shapes)
    with torch.autocast('cpu', torch.bfloat16):
        assert conv2d_over_pyramid(x, [level], weight).dtype == torch.bfloat16
    traced = torch.jit.trace(
        lambda x: conv2d_over_pyramid(x, [level], weight), x, check_trace=False
    )
    assert 'aten::_convolution' in str(traced.graph)
