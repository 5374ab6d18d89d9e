"""Levels of the pyramid in a few large matrix products, as GPUs want them.

Many small operations keep a GPU waiting. So all levels are stacked in one map, (N, C, R, S): the
bins of each level below those of the one before, in channels of their own, and zeros elsewhere. R
is the sum of their lines, S the length of the longest line. Whatever the number of levels, pooling
is then two products, and the convolution of the upsampled levels three (:mod:`.pyramid` has the
formula): the kernel at the bins, and upsampling with shifting along one axis and along the other.

A line is a row where the result lies channels-last in memory, and a column where it is contiguous:
the last product then adds to the result where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .matrices import built_once, interpolation_matrix, pooling_matrices
from .memory_format import is_channels_last
from .precision import without_autocast


class PoolLevels(torch.autograd.Function):
    """``F.adaptive_avg_pool2d`` to several numbers of bins, reading the map once.

    ``PoolLevels.apply(x, scales)`` takes (N, C, H, W) and a tuple of numbers, and returns a tuple
    of (N, C, b, b), one for each of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scales: tuple[int, ...]) -> tuple[Tensor, ...]:
        n, channels, height, width = x.shape
        ctx.scales, ctx.shape, ctx.channels_last = scales, x.shape, is_channels_last(x)
        rows, columns, factors = _pooling_tables(height, width, scales, like=x)
        bins = len(rows)
        if ctx.channels_last:
            lines = torch.bmm(rows.expand(n, -1, -1), x.permute(0, 2, 3, 1).reshape(n, height, -1))
            lines = lines.view(n * bins, width, channels)
            cells = torch.bmm(columns.expand(len(lines), -1, -1), lines)
            cells = cells.view(n, bins, bins, channels).permute(0, 3, 1, 2)
        else:
            lines = (x.reshape(-1, width) @ columns.T).view(-1, height, bins)
            cells = torch.bmm(rows.expand(len(lines), -1, -1), lines).view(n, channels, bins, bins)
        # Cells of rows of one level and columns of another are not used.
        torch.mul(cells, factors, out=cells)
        return tuple(cells[:, :, level, level] for level in _levels(scales))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # create_graph=True; pooling is linear, so any map will do
            x = grads[0].new_zeros(ctx.shape, requires_grad=True)
            pooled = [F.adaptive_avg_pool2d(x, bins) for bins in ctx.scales]
            return torch.autograd.grad(pooled, x, grads, create_graph=True)[0], None
        n, channels, height, width = ctx.shape
        rows, columns, factors = _pooling_tables(height, width, ctx.scales, like=grads[0])
        bins = len(rows)
        shape = (n, bins, bins, channels) if ctx.channels_last else (n, channels, bins, bins)
        cells = grads[0].new_zeros(shape)
        by_channel = cells.permute(0, 3, 1, 2) if ctx.channels_last else cells
        for grad, level in zip(grads, _levels(ctx.scales)):
            torch.mul(grad, factors[level, level], out=by_channel[:, :, level, level])
        if ctx.channels_last:
            cells = cells.view(n * bins, bins, channels)
            lines = torch.bmm(columns.T.expand(len(cells), -1, -1), cells).view(n, bins, -1)
            x = torch.bmm(rows.T.expand(n, -1, -1), lines)
            return x.view(n, height, width, channels).permute(0, 3, 1, 2), None
        lines = (cells.view(-1, bins) @ columns).view(-1, bins, width)
        return torch.bmm(rows.T.expand(len(lines), -1, -1), lines).view(ctx.shape), None


class AddConv2dOfLevels(torch.autograd.Function):
    """Adds the zero-padded convolution of the upsampled levels to a map, in place.

    ``AddConv2dOfLevels.apply(out, weight, align_corners, *levels)``: ``out`` is (N, O, H, W), the
    levels are (N, C_l, h_l, w_l), and ``weight`` (O, sum of C_l, k_h, k_w) with odd k_h and k_w.
    """

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, weight: Tensor, align_corners: bool, *levels: Tensor
    ) -> Tensor:
        ctx.align_corners = align_corners
        ctx.mark_dirty(out)
        ctx.save_for_backward(weight, *levels)
        with without_autocast(out):
            steps = _Steps.of(out, weight, levels, align_corners)
            return steps.add_upsampled(out, steps.taps(weight.to(out.dtype), levels))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *levels = ctx.saved_tensors
        with without_autocast(grad):
            if torch.is_grad_enabled():  # create_graph=True
                found = _gradients_with_graph(grad, weight, levels, ctx.align_corners)
            else:
                steps = _Steps.of(grad, weight, levels, ctx.align_corners)
                taps = steps.taps_gradient(grad)
                found = steps.gradients(taps, weight.to(grad.dtype), levels)
        wanted = zip(found, (weight, *levels), (ctx.needs_input_grad[1], *ctx.needs_input_grad[3:]))
        of_weight, *of_levels = (g.to(t.dtype) if needs else None for g, t, needs in wanted)
        return grad, of_weight, None, *of_levels


class _Steps(NamedTuple):
    """The steps from levels to the sum of their upsampled convolutions, and back.

    ``taps`` is what the kernel makes of the stacked levels at each of its positions,
    (O, N, R, S, k_h, k_w).
    """

    channels_last: bool
    sizes: tuple[tuple[int, int], ...]  # of each level: how many lines, and how long
    along: Tensor  # (lines of the map, R k): upsamples and shifts along the axis that lines stack
    across: Tensor  # (R k, length, S k'): the same within each line

    @classmethod
    def of(
        cls, out: Tensor, weight: Tensor, levels: Sequence[Tensor], align_corners: bool
    ) -> _Steps:
        channels_last = is_channels_last(out)
        order = slice(2, None) if channels_last else slice(None, 1, -1)  # rows, columns or reverse
        sizes = tuple(tuple(level.shape[order]) for level in levels)
        axes = (*zip(out.shape, weight.shape),)[order]
        return cls(channels_last, sizes, *_upsampling_tables(*axes, sizes, align_corners, like=out))

    def taps(self, weight: Tensor, levels: Sequence[Tensor]) -> Tensor:
        bins = self._bins_as_kernels(levels, weight)
        taps = F.conv2d(weight, bins)
        return taps.unflatten(1, (len(levels[0]), *self._shape()))

    def add_upsampled(self, out: Tensor, taps: Tensor) -> Tensor:
        n = len(out)
        if self.channels_last:
            taps = taps.permute(1, 2, 4, 3, 5, 0).reshape(n, *self.across.shape[::2], -1)
            lines = (self.across @ taps).flatten(2)  # (N, R k_h, W O)
            target = out.permute(0, 2, 3, 1).view(n, out.shape[2], -1)
            target.baddbmm_(self.along.expand(n, -1, -1), lines)
        else:
            taps = taps.permute(2, 5, 1, 0, 3, 4).reshape(
                len(self.across), -1, self.across.shape[2]
            )
            lines = (taps @ self.across.mT).flatten(1)  # (R k_w, N O H)
            out.view(-1, out.shape[3]).addmm_(lines.T, self.along.T)
        return out

    def taps_gradient(self, grad: Tensor) -> Tensor:
        n, outputs, height, width = grad.shape
        lines, length = self._shape()
        taps = len(self.across) // lines, self.across.shape[2] // length
        if self.channels_last:
            rows = grad.permute(0, 2, 3, 1).reshape(n, height, -1)
            of_lines = torch.bmm(self.along.T.expand(n, -1, -1), rows).unflatten(2, (width, -1))
            of_taps = (self.across.mT @ of_lines).view(n, lines, taps[0], length, taps[1], outputs)
            return of_taps.permute(5, 0, 1, 3, 2, 4)
        of_lines = (self.along.T @ grad.reshape(-1, width).T).view(len(self.across), -1, height)
        of_taps = (of_lines @ self.across).view(lines, taps[0], n, outputs, length, taps[1])
        return of_taps.permute(3, 2, 0, 4, 5, 1)

    def gradients(self, taps: Tensor, weight: Tensor, levels: Sequence[Tensor]) -> Iterator[Tensor]:
        """Of the weight and of each level, from that of the taps."""
        bins = self._bins_as_kernels(levels, weight)
        taps = taps.reshape(len(taps), -1, *taps.shape[4:])
        plain = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)  # stride, padding, dilation and so on
        of_weight, of_bins, _ = torch.ops.aten.convolution_backward(
            taps, weight, bins, None, *plain, (True, True, False)
        )
        yield of_weight
        stacked = of_bins.view(len(levels[0]), *self._shape(), -1)
        yield from self._unstack(stacked, levels)

    def _shape(self) -> tuple[int, int]:
        """R and S."""
        return sum(lines for lines, _ in self.sizes), max(length for _, length in self.sizes)

    def _bins_as_kernels(self, levels: Sequence[Tensor], like: Tensor) -> Tensor:
        """The stacked levels as 1 x 1 kernels, to which the weight is a batch of O small images."""
        channels = sum(level.shape[1] for level in levels)
        stacked = like.new_zeros(len(levels[0]), *self._shape(), channels)
        for part, level in zip(self._unstack(stacked, levels), levels):
            part.copy_(level)
        return stacked.view(-1, channels, 1, 1)

    def _unstack(self, stacked: Tensor, levels: Sequence[Tensor]) -> Iterator[Tensor]:
        """Each level's part of (N, R, S, C), as (N, C_l, h_l, w_l)."""
        line = channel = 0
        for level, (lines, length) in zip(levels, self.sizes):
            part = stacked[:, line : line + lines, :length, channel : channel + level.shape[1]]
            yield part.permute(0, 3, 1, 2) if self.channels_last else part.permute(0, 3, 2, 1)
            line, channel = line + lines, channel + level.shape[1]


def _gradients_with_graph(
    grad: Tensor, weight: Tensor, levels: Sequence[Tensor], align_corners: bool
) -> Sequence[Tensor]:
    """Of the weight and of each level, by operations that can be differentiated again."""
    # Views, because one level may be made of another, and no gradient goes through it.
    weight, *levels = (tensor.view_as(tensor).requires_grad_() for tensor in (weight, *levels))
    upsampled = [
        F.interpolate(level, grad.shape[2:], mode='bilinear', align_corners=align_corners)
        for level in levels
    ]
    padding = [k // 2 for k in weight.shape[2:]]
    out = F.conv2d(torch.cat(upsampled, dim=1).to(weight.dtype), weight, padding=padding)
    return torch.autograd.grad(out, (weight, *levels), grad.to(out.dtype), create_graph=True)


@built_once
def _pooling_tables(
    height: int, width: int, scales: tuple[int, ...], like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """That sum rows, (bins, H), and columns, (bins, W), and that turn sums into means."""
    rows, row_factors = pooling_matrices(height, scales, like=like)
    columns, column_factors = pooling_matrices(width, scales, like=like)
    return rows, columns, row_factors * column_factors.T


@built_once
def _upsampling_tables(
    along: tuple[int, int],
    across: tuple[int, int],
    sizes: tuple[tuple[int, int], ...],
    align_corners: bool,
    like: Tensor,
) -> tuple[Tensor, Tensor]:
    """The two matrices of :class:`_Steps`, from sizes of map and kernel on either axis."""
    count = sum(lines for lines, _ in sizes)
    longest = max(length for _, length in sizes)
    stacked = like.new_zeros(along[0], count, along[1])
    within = like.new_zeros(count, along[1], across[0], longest, across[1])
    line = 0
    for lines, length in sizes:
        end = line + lines
        stacked[:, line:end] = interpolation_matrix(
            along[0], lines, along[1], align_corners, like=like
        )
        within[line:end, :, :, :length] = interpolation_matrix(
            across[0], length, across[1], align_corners, like=like
        )
        line = end
    return stacked.flatten(1), within.flatten(3).flatten(0, 1)


def _levels(scales: Sequence[int]) -> Iterator[slice]:
    """Where the bins of each level lie among those of all."""
    for bins, end in zip(scales, accumulate(scales)):
        yield slice(end - bins, end)
