"""The pyramid of PSPNet as tensor functions: pooled in one pass, convolved without upsampling it.

PSPNet pools a map x to a few levels. A level of b x b bins is x averaged in b x b regions. The
levels are upsampled to the size of x, and one convolution takes the concatenation of x and all of
them. Convolution and bilinear upsampling are linear, so the sum over the input channels splits, and
in each level's part the kernel may be applied first, at the few bins, and upsampled then:

    conv(W, [x, up(p_1), ..., up(p_L)]) = conv(W_x, x) + sum over levels l and taps t of
                                          shift_t(up(W_lt p_l))

A tap t is one of the positions of the kernel, nine if it is 3 x 3. W_lt is the matrix that the
kernel holds at tap t for the channels of level l; ``shift_t`` moves a map by that tap and fills
with the convolution's zeros. Shifting and upsampling are separable: for all levels and taps
together they are one small fixed matrix for the rows and one for the columns. Nothing is
approximated. docs/performance.md derives the identity and counts the operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch_of_one import regular
from .conv2d import conv2d_same
from .matrices import mean_matrix, pooling_matrices
from .memory_format import is_channels_last
from .precision import at_least_float32, may_be_finite, without_autocast
from .stacked_levels import (
    concatenate_pyramid,
    conv2d_over_stacked,
    fine_and_coarse,
)
from .tracing import is_recorded, is_transformed
from .upsampled import add_conv2d_of_upsampled

# Below so many numbers a fast GPU reads x for each level in less time than it takes to start the
# few operations more.
WORTH_POOLING_ONCE = 2_000_000


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
    if is_recorded(x):
        cells = _pool_to_cells(x, scales)
        return [cells[:, :, level, level] for level in _places(scales)]
    if x.device.type != 'cpu' and x.numel() < WORTH_POOLING_ONCE:
        return [F.adaptive_avg_pool2d(x, bins) for bins in scales]
    levels = _Pooling.apply(regular(x), scales)
    if not all(map(may_be_finite, levels)):
        return [F.adaptive_avg_pool2d(x, bins) for bins in scales]
    return list(levels)


class _Pooling(torch.autograd.Function):
    """All levels of a map, (N, C, H, W), and its gradient in two products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.scales, ctx.shape, ctx.channels_last = scales, x.shape, is_channels_last(x)
        cells = _pool_to_cells(x, scales)
        return tuple(cells[:, :, level, level] for level in _places(scales))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # create_graph=True; pooling is linear, so any map will do
            x = grads[0].new_zeros(ctx.shape, requires_grad=True)
            pooled = [F.adaptive_avg_pool2d(x, bins) for bins in ctx.scales]
            return torch.autograd.grad(pooled, x, grads, create_graph=True)[0], None
        n, channels, height, width = ctx.shape
        rows, row_factors = pooling_matrices(height, ctx.scales, like=grads[0])
        columns, column_factors = pooling_matrices(width, ctx.scales, like=grads[0])
        bins = len(rows)
        shape = (n, bins, bins, channels) if ctx.channels_last else (n, channels, bins, bins)
        cells = grads[0].new_zeros(shape)
        by_channel = cells.permute(0, 3, 1, 2) if ctx.channels_last else cells
        factors = row_factors * column_factors.T
        for grad, level in zip(grads, _places(ctx.scales)):
            torch.mul(grad, factors[level, level], out=by_channel[:, :, level, level])
        if ctx.channels_last:
            cells = cells.view(n * bins, bins, channels)
            lines = torch.bmm(columns.T.expand(len(cells), -1, -1), cells).view(n, bins, -1)
            x = torch.bmm(rows.T.expand(n, -1, -1), lines)
            return x.view(n, height, width, channels).permute(0, 3, 1, 2), None
        lines = (cells.view(-1, bins) @ columns).view(-1, bins, width)
        return torch.bmm(rows.T.expand(len(lines), -1, -1), lines).view(ctx.shape), None


def _pool_to_cells(x: Tensor, scales: tuple[int, ...]) -> Tensor:
    """The means of x, (N, C, B, B), over each line of bins of all levels, B in sum, on either axis.

    Cells of rows of one level and columns of another are not used.
    """
    with without_autocast(x):
        # The first product is along the second innermost dimension in memory: it copies nothing.
        if is_channels_last(x):
            sums, factors = pooling_matrices(x.shape[3], scales, like=x)
            lines = at_least_float32(sums @ x.permute(0, 2, 3, 1))  # (N, H, bins, C)
            means = mean_matrix(x.shape[2], scales, like=lines)
            # Not unflatten(), which torch 2.0 cannot write as ONNX.
            cells = (means @ lines.flatten(2)).reshape(x.shape[0], len(means), *lines.shape[2:])
            cells = cells.permute(0, 3, 1, 2) * factors.T
        else:
            sums, factors = pooling_matrices(x.shape[2], scales, like=x)
            lines = at_least_float32(sums @ x)  # (N, C, bins, W)
            means = mean_matrix(x.shape[3], scales, like=lines)
            cells = lines @ means.T * factors
    return cells.to(x.dtype)


def _places(scales: tuple[int, ...]) -> Iterator[slice]:
    """Where the bins of each level lie among those of all."""
    for bins, end in zip(scales, accumulate(scales)):
        yield slice(end - bins, end)


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
    if x.device.type != 'cpu':
        return conv2d_over_stacked(
            x, *fine_and_coarse(x, levels, weight), weight, bias, align_corners
        )
    if not levels:
        return conv2d_same(x, weight, bias)
    if not (is_recorded(x) or all(map(may_be_finite, levels))):
        return conv2d_same(concatenate_pyramid(x, levels, align_corners), weight, bias)
    levels = [regular(level) for level in levels]
    # As plain numbers: the exporter of torch 2.0 needs to know the shape of each kernel.
    channels = [int(a_map.shape[1]) for a_map in (x, *levels)]
    weight_of_x, *weights = weight.split(channels, dim=1)
    out = conv2d_same(x, weight_of_x, bias)
    return add_conv2d_of_upsampled(out, levels, weights, align_corners)
