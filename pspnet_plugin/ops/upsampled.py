"""The convolution of upsampled maps, applied before they are upsampled.

Each level is multiplied with the kernel's matrix of each tap where it has few positions; rows and
columns of what comes out are then upsampled and shifted by one matrix product each, and the second
one sums over taps and levels. :mod:`.pyramid` has the formula, docs/performance.md its derivation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .operators import at_least_float32, interpolation_operator, is_recorded

Kind = TypeVar('Kind')

# What is made on the way holds about so many numbers at a time on a CPU, few enough for its cache.
NUMBERS_AT_ONCE = 2**21


def add_conv2d_of_upsampled(
    out: Tensor, levels: Sequence[Tensor], weights: Sequence[Tensor], align_corners: bool
) -> Tensor:
    """Add the zero-padded convolutions of upsampled levels to ``out``, in place.

    Args:
        out: (N, O, H, W), contiguous or channels-last.
        levels: (N, C_l, h_l, w_l) each.
        weights: (O, C_l, k_h, k_w) each; k_h and k_w are odd.
        align_corners: of the upsampling, as in ``F.interpolate``.
    """
    if is_recorded(out):
        with without_autocast(out):
            return out.add_(conv2d_of_upsampled(out, levels, weights, align_corners))
    return _Addition.apply(out, align_corners, *levels, *weights)


def conv2d_of_upsampled(
    like: Tensor, levels: Sequence[Tensor], weights: Sequence[Tensor], align_corners: bool
) -> Tensor:
    """What :func:`add_conv2d_of_upsampled` adds to ``like``, of operations for any sizes."""
    lines: list[Tensor] = []
    columns: list[Tensor] = []
    for level, weight in zip(levels, weights):
        kernels = weight.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None]
        taps = F.conv2d(level.to(weight.dtype), kernels)
        taps = at_least_float32(taps).unflatten(1, (*weight.shape[2:], weight.shape[0]))
        rows, cols = (
            interpolation_operator(*sizes, align_corners, like=taps)
            for sizes in zip(like.shape[2:], level.shape[2:], weight.shape[2:])
        )
        strips = (rows.permute(2, 0, 1)[:, None, None] @ taps).sum(dim=1)
        lines.extend(strips.unbind(1))
        columns.extend(cols.unbind(2))
    stacked, matrix = torch.cat(lines, dim=3), torch.cat(columns, dim=1)
    # Both factors have four dimensions: else one is flattened, which is a condition on the sizes.
    return stacked.to(like.dtype) @ matrix.T.to(like.dtype)[None, None]


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Compute in the dtypes of the operands, on the device of ``x``."""
    on_meta = x.device.type == 'meta'  # has shapes only, and no autocast
    return nullcontext() if on_meta else torch.autocast(x.device.type, enabled=False)


class _Addition(torch.autograd.Function):
    """Saves the levels and the weights alone for the backward pass."""

    @staticmethod
    def forward(out: Tensor, align_corners: bool, *tensors: Tensor) -> Tensor:
        with without_autocast(out):
            parts = [_Part(out, *pair, align_corners) for pair in zip(*_halves(tensors))]
            columns = torch.cat([part.columns for part in parts])
            for images, outputs in _blocks(out, columns):
                lines = torch.cat([x for part in parts for x in part.lines(images, outputs)], dim=3)
                _add_product(out[images, outputs], lines.to(out.dtype), columns)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        out, ctx.align_corners, *tensors = inputs
        ctx.mark_dirty(out)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        with without_autocast(grad):
            if torch.is_grad_enabled():  # create_graph=True
                whole = conv2d_of_upsampled(grad, *_halves(tensors), ctx.align_corners)
                wanted = [tensor for tensor, needs in zip(tensors, needed) if needs]
                found = iter(torch.autograd.grad(whole, wanted, grad, create_graph=True))
                return grad, None, *(next(found) if needs else None for needs in needed)
            parts = [_Part(grad, *pair, ctx.align_corners) for pair in zip(*_halves(tensors))]
            for part, *needs in zip(parts, *_halves(needed)):
                part.need_gradients(*needs)
            columns = torch.cat([part.columns for part in parts])
            for images, outputs in _blocks(grad, columns):
                lines = grad[images, outputs] @ columns.T
                widths = [len(part.columns) for part in parts]
                for part, of_part in zip(parts, lines.split(widths, dim=3)):
                    part.add_gradients(of_part, images, outputs)
        found = [*(part.of_level for part in parts), *(part.of_weight for part in parts)]
        return grad, None, *(g if g is None else g.to(t.dtype) for g, t in zip(sums, tensors))


class _Part:
    """One level, (N, C, h, w), with the kernel for it, (O, C, k_h, k_w)."""

    def __init__(self, out: Tensor, level: Tensor, weight: Tensor, align_corners: bool) -> None:
        self.level, self.weight, self.dtype = level, weight, out.dtype
        precise = at_least_float32(out.new_empty(0))
        rows, columns = (
            interpolation_operator(*sizes, align_corners, like=precise)
            for sizes in zip(out.shape[2:], level.shape[2:], weight.shape[2:])
        )
        self.rows = rows.mT.flatten(1)  # (H, k_h h)
        self.columns = columns.permute(2, 1, 0).flatten(0, 1).to(out.dtype)  # (k_w w, W)
        self.of_level: Tensor | None = None
        self.of_weight: Tensor | None = None
        n, c, h, w = level.shape
        self.few_bins = n * h * w <= c

    def need_gradients(self, of_level: bool, of_weight: bool) -> None:
        """Start the sums of :meth:`add_gradients`."""
        if of_level:
            self.of_level = at_least_float32(torch.zeros_like(self.level))
        if of_weight:
            self.of_weight = at_least_float32(torch.zeros_like(self.weight))

    @functools.cached_property
    def taps(self) -> Tensor:
        """All taps of few bins, (N, k_w, O, k_h, h, w)."""
        n, c, h, w = self.level.shape
        # The kernel is taken as O images of k_h x k_w pixels, the bins as 1 x 1 kernels.
        bins = self.level.to(self.weight.dtype).permute(0, 2, 3, 1).reshape(-1, c, 1, 1)
        return F.conv2d(self.weight, bins).unflatten(1, (n, h, w)).permute(1, 5, 0, 4, 2, 3)

    def _kernels(self, outputs: slice) -> Tensor:
        """The matrices of all taps below each other, (k_w o k_h, C)."""
        kernels = self.weight[outputs].permute(3, 0, 2, 1)
        return kernels.reshape(-1, kernels.shape[3]).to(self.dtype)

    def lines(self, images: slice, outputs: slice) -> list[Tensor]:
        """For each k_w the taps of some images and outputs with upsampled rows, (n, o, H, w)."""
        k_h, k_w = self.weight.shape[2:]
        h, w = self.level.shape[2:]
        # The smaller one of the kernel and the result is brought into another order in memory.
        if self.few_bins:
            taps = self.taps[images, :, outputs]
        else:
            level, kernels = self.level[images].flatten(2).to(self.dtype), self._kernels(outputs)
            taps = torch.bmm(kernels.expand(len(level), -1, -1), level)
        taps = at_least_float32(taps).reshape(-1, k_h * h, w)
        strips = torch.bmm(self.rows.expand(len(taps), -1, -1), taps)
        return list(strips.unflatten(0, (-1, k_w, outputs.stop - outputs.start)).unbind(1))

    def add_gradients(self, lines: Tensor, images: slice, outputs: slice) -> None:
        """Add to the gradients what comes from those of some lines, (n, o, H, k_w w)."""
        k_h, k_w = self.weight.shape[2:]
        h, w = self.level.shape[2:]
        strips = lines.unflatten(3, (k_w, w)).permute(0, 3, 1, 2, 4).flatten(0, 2)
        strips = strips.to(self.rows.dtype)
        taps = torch.bmm(self.rows.T.expand(len(strips), -1, -1), strips).to(self.dtype)
        taps = taps.view(len(lines), -1, h * w)  # (n, k_w o k_h, h w)
        if self.of_level is not None:
            kernels = self._kernels(outputs).T.expand(len(lines), -1, -1)
            self.of_level[images] += torch.bmm(kernels, taps).unflatten(2, (h, w))
        if self.of_weight is not None:
            level = self.level[images].flatten(2).to(self.dtype)
            kernels = torch.einsum('nkp,ncp->kc', taps, level).unflatten(0, (k_w, -1, k_h))
            self.of_weight[outputs] += kernels.permute(1, 3, 2, 0)


def _halves(both: Sequence[Kind]) -> tuple[Sequence[Kind], Sequence[Kind]]:
    count = len(both) // 2
    return both[:count], both[count:]


def _blocks(out: Tensor, columns: Tensor) -> Iterator[tuple[slice, slice]]:
    """Some images and some output channels at a time, see ``NUMBERS_AT_ONCE``."""
    images, outputs, height, _ = out.shape
    at_once = NUMBERS_AT_ONCE if out.device.type == 'cpu' else out.numel() * len(columns)
    lines = max(1, at_once // (height * len(columns)))
    some = min(lines, outputs)
    for first in range(0, outputs, some):
        for image in range(0, images, step := max(1, lines // outputs)):
            yield slice(image, image + step), slice(first, min(first + some, outputs))


def _add_product(out: Tensor, lines: Tensor, columns: Tensor) -> None:
    """Add lines @ columns to some images and channels of a map."""
    if out.is_contiguous():
        out.view(-1, out.shape[3]).addmm_(lines.flatten(0, 2), columns)
    else:
        out += lines @ columns
