"""Levels of the pyramid in a few large matrix products, as GPUs want them.

Many small operations keep a GPU waiting. So all levels are stacked in one map, (N, C, R, S): the
bins of each level below those of the one before, in channels of their own, and zeros elsewhere. R
is the sum of their lines, S the length of the longest line. Whatever the number of levels, the
convolution of the upsampled levels is then three products (:mod:`.pyramid` has the formula): the
kernel at the bins, and upsampling with shifting along one axis and along the other.

A line is a row where the result lies channels-last in memory, and a column where it is contiguous:
the last product then adds to the result where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .matrices import built_once, interpolation_matrix
from .memory_format import is_channels_last
from .precision import without_autocast
from .tracing import is_recorded
from .upsampled import add_conv2d_of_upsampled

# What is saved must be worth the twelve kernels more that are launched, at 5 microseconds each. In
# that time a T4 reads or writes 10 million numbers of 16 bits, an A100 61 and an H200 144 million.
WORTH_THE_LAUNCHES = 75_000_000
# For so many multiply-adds GPUs with tensor cores take the time of one such number or less.
MULTIPLY_ADDS_PER_NUMBER = 200


def conv2d_over_stacked(
    x: Tensor,
    fine: Sequence[Tensor],
    coarse: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """:func:`.conv2d_over_pyramid` in few operations.

    Args:
        fine: the first levels, which are upsampled and concatenated with x, as in stock.
        coarse: the others, whose convolutions are upsampled; see :func:`fine_and_coarse`.
    """
    whole = concatenate_pyramid(x, fine, align_corners) if fine else x
    padding = [k // 2 for k in weight.shape[2:]]
    if not coarse:
        return F.conv2d(whole, weight, bias, padding=padding)
    sizes = [int(a_map.shape[1]) for a_map in (whole, *coarse)]
    if is_recorded(x):
        weight_of_whole, *weights = weight.split(sizes, dim=1)
        out = F.conv2d(whole, weight_of_whole, bias, padding=padding)
        return add_conv2d_of_upsampled(out, coarse, weights, align_corners)
    weight_of_whole, weight_of_coarse = weight.split([sizes[0], sum(sizes[1:])], dim=1)
    out = F.conv2d(whole, weight_of_whole, bias, padding=padding)
    return _AddConv2dOfLevels.apply(out, weight_of_coarse, align_corners, *coarse)


def concatenate_pyramid(x: Tensor, levels: Sequence[Tensor], align_corners: bool) -> Tensor:
    """x, (N, C, H, W), with its levels, (N, C_l, h_l, w_l), upsampled behind it.

    Returns:
        (N, C + C_1 + ... + C_L, H, W).
    """
    return torch.cat([x, *_upsample(levels, x.shape[2:], align_corners)], dim=1)


def _upsample(levels: Sequence[Tensor], size: torch.Size, align_corners: bool) -> list[Tensor]:
    return [F.interpolate(level, size, None, 'bilinear', align_corners) for level in levels]


def fine_and_coarse(
    x: Tensor, levels: Sequence[Tensor], weight: Tensor
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The levels that are upsampled before the convolution, as in stock, and those after it.

    The split that saves most, or no coarse level where that is not worth the launches.
    """
    if not all(isinstance(size, int) for size in x.shape):  # of any size in a compiled graph
        return (), levels
    saved = [_saved(x, levels[split:], weight) for split in range(len(levels))]
    most = max(saved, default=0)
    split = saved.index(most) if most > WORTH_THE_LAUNCHES else len(levels)
    return levels[:split], levels[split:]


def _saved(x: Tensor, coarse: Sequence[Tensor], weight: Tensor) -> int:
    """How many numbers less a training step reads and writes if these levels are convolved first.

    In stock each goes through memory seven times at full size: upsampled, concatenated, convolved,
    and their gradients. Here the stacked levels go five times and the levels themselves nine times,
    what the kernel makes of them eight times, that with lines upsampled four times, the output
    three times, and the weight's gradient twice. Less arithmetic counts for kernels of several
    taps, which keep a GPU computing, but never pays for more traffic.
    """
    n, _, height, width = x.shape
    outputs, _, *kernel = weight.shape
    taps, pixels = kernel[0] * kernel[1], height * width
    along, across = (2, 3) if is_channels_last(x) else (3, 2)
    lines = sum(level.shape[along] for level in coarse)
    bins = lines * max(level.shape[across] for level in coarse)
    channels = sum(level.shape[1] for level in coarse)
    upsampled_lines = lines * kernel[along - 2] * x.shape[across] * outputs
    numbers = 7 * channels * pixels - 3 * outputs * pixels - 4 * upsampled_lines
    numbers -= bins * (5 * channels + 8 * taps * outputs)
    numbers -= 9 * sum(level[0].numel() for level in coarse)
    numbers = n * numbers - 2 * weight.numel()
    if taps > 1 and numbers >= 0:
        arithmetic = channels * taps * outputs * (pixels - bins)
        arithmetic -= upsampled_lines * (bins // lines * kernel[across - 2] + x.shape[along])
        numbers += 3 * n * arithmetic // MULTIPLY_ADDS_PER_NUMBER
    return numbers


class _AddConv2dOfLevels(torch.autograd.Function):
    """Adds the zero-padded convolution of the upsampled levels to a map, in place.

    ``out`` is (N, O, H, W), the levels are (N, C_l, h_l, w_l), and ``weight``
    (O, sum of C_l, k_h, k_w) with odd k_h and k_w.
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
                found = iter(_gradients_with_graph(grad, weight, levels, ctx.align_corners))
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
        first, second = (2, 3) if channels_last else (3, 2)
        sizes = tuple((level.shape[first], level.shape[second]) for level in levels)
        axes = [(out.shape[axis], weight.shape[axis]) for axis in (first, second)]
        return cls(channels_last, sizes, *_upsampling_tables(*axes, sizes, align_corners, like=out))

    def taps(self, weight: Tensor, levels: Sequence[Tensor]) -> Tensor:
        bins = self._bins_as_kernels(levels, weight.dtype)
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
        bins = self._bins_as_kernels(levels, weight.dtype)
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

    def _bins_as_kernels(self, levels: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """The stacked levels as 1 x 1 kernels, to which the weight is a batch of O small images."""
        channels = sum(level.shape[1] for level in levels)
        stacked = levels[0].new_zeros((len(levels[0]), *self._shape(), channels), dtype=dtype)
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
    whole = torch.cat(_upsample(levels, grad.shape[2:], align_corners), dim=1)
    padding = [k // 2 for k in weight.shape[2:]]
    out = F.conv2d(whole.to(weight.dtype), weight, padding=padding)
    return torch.autograd.grad(out, (weight, *levels), grad.to(out.dtype), create_graph=True)


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
