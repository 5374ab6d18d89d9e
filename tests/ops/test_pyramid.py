"""The pyramid's tensor functions against PyTorch's own pooling, upsampling and convolution."""

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from pspnet_plugin.ops.pyramid import conv2d_over_pyramid, pool_pyramid
from pspnet_plugin.ops.stacked_levels import conv2d_over_stacked
from tests.helpers.maps import (
    LAYOUTS,
    LargestTensor,
    assert_same,
    assert_same_with_gradients,
    layouts,
    random_map,
    sizes,
    stock_conv,
)
from tests.helpers.torch_features import skip_unless_computed


# The way of CPUs and that of all other devices, which is computed on the CPU here.
def conv2d_half_stacked(x, levels, weight, bias=None, align_corners=False):
    """The first half of the levels is fine, the second coarse."""
    half = len(levels) // 2
    return conv2d_over_stacked(x, levels[:half], levels[half:], weight, bias, align_corners)


convolves = pytest.mark.parametrize('conv2d', [conv2d_over_pyramid, conv2d_half_stacked])


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), sizes, sizes),
    pool_scales=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    layout=layouts,
)
def test_every_level_is_adaptive_average_pooling(shape, pool_scales, layout):
    x = random_map(*shape, layout=layout)
    pooled = pool_pyramid(x, tuple(pool_scales))
    assert len(pooled) == len(pool_scales)
    stock = [F.adaptive_avg_pool2d(x, bins) for bins in pool_scales]
    for level, expected in zip(pooled, stock):
        assert_same(level, expected)
    flat, expected = (torch.cat([level.flatten(2) for level in p], dim=2) for p in (pooled, stock))
    assert_same_with_gradients(flat, expected, [x])


@convolves
@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), sizes, sizes),
    # More bins than channels, and fewer: both ways are taken, and both in one call.
    level_shapes=st.lists(
        st.tuples(st.sampled_from([1, 3, 50]), st.integers(1, 7), st.integers(1, 7)),
        min_size=1,
        max_size=4,
    ),
    kernel_size=st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5])),
    with_bias=st.booleans(),
    align_corners=st.booleans(),
    layout=layouts,
)
def test_split_convolution_is_the_convolution_of_the_concatenation(
    conv2d, shape, level_shapes, kernel_size, with_bias, align_corners, layout
):
    x = random_map(*shape, layout=layout)
    levels = [random_map(shape[0], *s, seed=i + 2) for i, s in enumerate(level_shapes)]
    channels = shape[1] + sum(s[0] for s in level_shapes)
    weight = random_map(3, channels, *kernel_size, layout=layout, seed=7)
    bias = random_map(3, seed=8) if with_bias else None
    inputs = [x, *levels, weight] + ([bias] if with_bias else [])
    ours = conv2d(x, levels, weight, bias, align_corners)
    assert_same_with_gradients(ours, stock_conv(x, levels, weight, bias, align_corners), inputs)


@convolves
def test_a_map_with_gaps_in_memory_gives_the_same_result(conv2d):
    x = random_map(2, 3, 18, 22)[:, :, ::2, 1::2]
    weight = random_map(4, 5, 3, 3, seed=1)
    levels = [random_map(2, 2, 3, 3, seed=2)]
    assert_same(conv2d(x, levels, weight), stock_conv(x, levels, weight, None, False))
    assert_same(pool_pyramid(x, (4,))[0], F.adaptive_avg_pool2d(x, 4))


@convolves
def test_second_derivatives_are_right(conv2d):
    x, level = random_map(1, 2, 4, 5), random_map(1, 1, 2, 2, seed=1)
    weight = random_map(2, 3, 3, 3, seed=2)

    def pyramid(x, level, weight):
        return conv2d(
            x, [level, *pool_pyramid(level, (1,))], torch.cat([weight, weight[:, :1]], dim=1)
        )

    assert torch.autograd.gradgradcheck(pyramid, (x, level, weight))


@convolves
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_output_has_the_memory_format_of_the_map(conv2d, layout, dtype):
    x = random_map(2, 16, 24, 20, layout=layout, dtype=dtype)
    weight = random_map(8, 20, 3, 3, layout=layout, dtype=dtype, seed=1)
    levels = [random_map(2, 4, 3, 3, dtype=dtype, seed=2)]
    assert conv2d(x, levels, weight).is_contiguous(memory_format=layout)


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_large_map_is_never_copied(layout, dtype):
    x = random_map(2, 64, 48, 40, layout=layout, dtype=dtype)
    levels = [random_map(2, 8, bins, bins, dtype=dtype, seed=bins) for bins in (1, 3)]
    weight = random_map(8, 80, 3, 3, layout=layout, dtype=dtype, seed=1)
    with LargestTensor(x) as ours:
        pool_pyramid(x, (1, 2, 3, 6))
        conv2d_over_pyramid(x, levels, weight)
    with LargestTensor(x) as stock:
        stock_conv(x, levels, weight, None, False)
    assert ours.elements <= x.numel() / 2
    assert stock.elements >= x.numel()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_pooling_in_half_precision_is_as_exact_as_stock(dtype, layout):
    skip_unless_computed(dtype)
    x = random_map(2, 64, 33, 47, layout=layout, dtype=dtype).relu()
    for ours, bins in zip(pool_pyramid(x, (1, 2, 3, 6)), (1, 2, 3, 6)):
        truth = F.adaptive_avg_pool2d(x.double(), bins)
        error = (ours.double() - truth).norm()
        assert error <= 1.5 * (F.adaptive_avg_pool2d(x, bins).double() - truth).norm()


def test_sums_of_large_half_precision_values_do_not_overflow():
    skip_unless_computed(torch.float16)
    x = torch.full((1, 1, 70, 70), 6e4, dtype=torch.float16)
    for level in pool_pyramid(x, (1, 2, 3, 6)):
        torch.testing.assert_close(level, torch.full_like(level, 6e4))


def test_a_call_in_another_precision_before_does_not_change_the_result():
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x = random_map(1, 2, 11, 19, dtype=dtype)
        (level,) = pool_pyramid(x, (7,))
        out = conv2d_over_pyramid(x, [level], random_map(3, 4, 3, 3, dtype=dtype, seed=1))
    assert_same(level, F.adaptive_avg_pool2d(x, 7))
    assert_same(out, stock_conv(x, [level], random_map(3, 4, 3, 3, seed=1), None, False))


def test_training_after_prediction_in_inference_mode():
    pool_scales = (1, 5, 7)
    with torch.inference_mode():
        conv2d_over_pyramid(
            torch.zeros(1, 1, 13, 17),
            pool_pyramid(torch.zeros(1, 1, 13, 17), pool_scales),
            torch.zeros(1, 4, 3, 3),
        )
    x = torch.randn(1, 1, 13, 17, requires_grad=True)
    weight = torch.randn(1, 4, 3, 3, requires_grad=True)
    conv2d_over_pyramid(x, pool_pyramid(x, pool_scales), weight).sum().backward()
    assert x.grad.abs().sum() > 0
