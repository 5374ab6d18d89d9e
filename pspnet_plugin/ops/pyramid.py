"""The pyramid of PSPNet as tensor functions: pooled in one pass, convolved without upsampling it.

PSPNet concatenates a map x with upsampled copies of its pooled levels and convolves all of it.
Convolution and bilinear upsampling are linear, so the sum over the input channels splits, and in
each level's part the kernel may be applied first, at the level's few bins, and upsampled then:

    conv(W, [x, up(p_1), ..., up(p_L)]) = conv(W_x, x) + sum over levels l and taps t of
                                          shift_t(up(W_lt p_l))

W_lt is the matrix that the kernel holds at tap t for the channels of level l; ``shift_t`` moves a
map by that tap and fills with the convolution's zeros. Shifting and upsampling are separable: for
all levels and taps together they are one small fixed matrix for the rows and one for the columns.
Nothing is approximated. docs/performance.md derives the identity and counts the operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from .memory_format import is_channels_last, multiply, spatial_dims
from .operators import (
    at_least_float32,
    interpolation_operator,
    is_transformed,
    pooling_operator,
)
from .torch_state import is_exporting
from .winograd import conv2d_same


def pool_pyramid(x: Tensor, pool_scales: Sequence[int]) -> list[Tensor]:
    """Average-pool a map to all levels of the pyramid, reading it once.

    Args:
        x: (N, C, H, W), contiguous or channels-last.
        pool_scales: the bins per side of each level; they may overlap and outnumber H or W.

    Returns:
        For each level of b bins (N, C, b, b), as ``F.adaptive_avg_pool2d(x, b)`` gives.
    """
    scales = tuple(pool_scales)
    if is_transformed(x):
        return [F.adaptive_avg_pool2d(x, bins) for bins in scales]
    channels_last = is_channels_last(x)
    first, second = spatial_dims(channels_last)
    with _without_autocast(x):
        powers, factors = pooling_operator(x.shape[first], scales, like=x)
        strips = at_least_float32(multiply(powers, x, first, channels_last))
        means = torch.mul(*pooling_operator(x.shape[second], scales, like=strips))
        cells = multiply(means, strips, second, channels_last)
        cells = (cells * (factors if first == 2 else factors.T)).to(x.dtype)
    # Cells of rows of one level and columns of another are not used.
    ends = accumulate(scales)
    return [cells[:, :, end - b : end, end - b : end] for b, end in zip(scales, ends)]


def concatenate_pyramid(x: Tensor, levels: Sequence[Tensor], align_corners: bool) -> Tensor:
    """x, (N, C, H, W), with its levels, (N, C_l, h_l, w_l), upsampled behind it.

    Returns:
        (N, C + C_1 + ... + C_L, H, W).
    """
    upsampled = [
        F.interpolate(level, x.shape[2:], mode='bilinear', align_corners=align_corners)
        for level in levels
    ]
    return torch.cat([x, *upsampled], dim=1)


def conv2d_over_pyramid(
    x: Tensor,
    levels: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Convolve the concatenation of x and its upsampled levels, zero-padded to keep the size.

    Args:
        x: (N, C, H, W), contiguous or channels-last.
        levels: one or more of (N, C_l, h_l, w_l), each standing for its bilinear upsampling to
            (H, W).
        weight: (O, C + C_1 + ... + C_L, k_h, k_w); k_h and k_w are odd.
        bias: (O,).
        align_corners: of the upsampling, as in ``F.interpolate``.

    Returns:
        (N, O, H, W), channels-last if x is.
    """
    # TorchScript's tracer would warn of a comparison that it cannot record; len() would make the
    # batch a constant of what torch.export records.
    if not torch.jit.is_tracing() and x.shape[0] == 0:
        return conv2d_same(concatenate_pyramid(x, levels, align_corners), weight, bias)
    channels = [x.shape[1], *(level.shape[1] for level in levels)]
    weight_of_x, *weights = weight.split(channels, dim=1)
    out = conv2d_same(x, weight_of_x, bias)
    with _without_autocast(x):
        taps = [apply_taps(level, w) for level, w in zip(levels, weights)]
        return out.add_(upsample_taps(taps, weight.shape[2:], out, align_corners))


def apply_taps(level: Tensor, weight: Tensor) -> Tensor:
    """Multiply each bin with the matrix that the kernel holds at each tap.

    Args:
        level: (N, C, h, w).
        weight: (O, C, k_h, k_w).

    Returns:
        (N, O, h k_h, w k_w): row ``i * k_h + t`` holds tap t at bin i, and so do the columns.
    """
    n, c, h, w = level.shape
    if is_exporting():
        # Other runtimes transpose the kernel once, when they read the file, and take a convolution
        # whose weight is a feature map slowly or not at all.
        kernel = weight.transpose(0, 1).flatten(1)
        product = level.to(weight.dtype).flatten(2).transpose(1, 2) @ kernel
        taps = product.view(n, h, w, -1, *weight.shape[2:])
        return taps.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    # The kernel is taken as O images of k_h x k_w pixels and convolved with the bins as 1 x 1
    # kernels; a matrix product would first make, and keep, a transposed copy of the kernel.
    bins = level.to(weight.dtype).permute(0, 2, 3, 1).reshape(-1, c, 1, 1)
    taps = F.conv2d(weight, bins).unflatten(1, (n, h, w))
    return taps.permute(1, 0, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)


def upsample_taps(
    taps: Sequence[Tensor], kernel_size: Sequence[int], output: Tensor, align_corners: bool
) -> Tensor:
    """Upsample what :func:`apply_taps` made of each level, shift each tap, and sum all.

    Args:
        taps: (N, O, h_l k_h, w_l k_w) each.
        kernel_size: k_h, k_w.
        output: (N, O, H, W), what the result is to be added to.

    Returns:
        (N, O, H, W), in the dtype and the memory format of ``output``.
    """
    channels_last = is_channels_last(output)
    last, first = spatial_dims(channels_last)
    taps = [at_least_float32(tap) for tap in taps]

    def operator(dim: int, like: Tensor) -> Tensor:
        size, kernel = output.shape[dim], kernel_size[dim - 2]
        bins = tuple(tap.shape[dim] // kernel for tap in taps)
        return interpolation_operator(size, bins, kernel, align_corners, like=like)

    # Along the first axis one product per level, along the last one for all of them, which sums.
    operators = operator(first, like=taps[0]).split([tap.shape[first] for tap in taps], dim=1)
    strips = [multiply(m, tap, first, channels_last) for m, tap in zip(operators, taps)]
    stacked = torch.cat(strips, dim=last).to(output.dtype)
    return multiply(operator(last, like=stacked), stacked, last, channels_last)


def _without_autocast(x: Tensor) -> AbstractContextManager:
    on_meta = x.device.type == 'meta'  # has shapes only, and no autocast
    return nullcontext() if on_meta else torch.autocast(x.device.type, enabled=False)
