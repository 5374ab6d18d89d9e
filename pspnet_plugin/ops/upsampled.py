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
from torch.nn.grad import conv2d_weight

from .memory_format import is_channels_last
from .operators import at_least_float32, interpolation_operator, is_recorded

Kind = TypeVar('Kind')

# A CPU computes about so many numbers of a contiguous map at a time, few enough for its cache.
NUMBERS_AT_ONCE = 2**20


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
        # Not unflatten(), which torch 2.0 cannot write as ONNX.
        shape = (level.shape[0], *weight.shape[2:], weight.shape[0], *level.shape[2:])
        taps = at_least_float32(taps).reshape(shape)
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
            parts = _parts(out, tensors, align_corners)
            # In half precision the sum is rounded once, not for each tap.
            half = at_least_float32(out) is not out
            total = torch.zeros_like(out, dtype=torch.float32) if half else out
            for images, outputs in _blocks(out):
                _add_parts(total, parts, images, outputs)
            return out.add_(total) if half else out

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
                # Views, because one level may be made of another, and no gradient goes through it.
                tensors = [tensor.view_as(tensor) for tensor in tensors]
                whole = conv2d_of_upsampled(grad, *_halves(tensors), ctx.align_corners)
                wanted = [tensor for tensor, needs in zip(tensors, needed) if needs]
                found = iter(torch.autograd.grad(whole, wanted, grad, create_graph=True))
                return grad, None, *(next(found) if needs else None for needs in needed)
            parts = _parts(grad, tensors, ctx.align_corners)
            for part, *needs in zip(parts, *_halves(needed)):
                part.need_gradients(*needs)
            for images, outputs in _blocks(grad):
                for part in parts:
                    part.add_gradients(grad, images, outputs)
            of_levels, of_weights = zip(*(part.gradients() for part in parts))
        sums = (*of_levels, *of_weights)
        return grad, None, *(g if g is None else g.to(t.dtype) for g, t in zip(sums, tensors))


def _halves(both: Sequence[Kind]) -> tuple[Sequence[Kind], Sequence[Kind]]:
    count = len(both) // 2
    return both[:count], both[count:]


def _parts(out: Tensor, tensors: Sequence[Tensor], align_corners: bool) -> list[_Part]:
    kind = _ChannelsLastPart if is_channels_last(out) else _ContiguousPart
    return [kind(out, *pair, align_corners) for pair in zip(*_halves(tensors))]


def _add_parts(out: Tensor, parts: Sequence[_Part], images: slice, outputs: slice) -> None:
    """Add the convolutions of all levels to some images and output channels of ``out``."""
    # Short products cost more than a copy: those of levels with few bins are one.
    few = [part for part in parts if part.has_few_bins]
    together = [product for part in few for product in part.products(images, outputs)]
    if together:
        lines, matrices = zip(*together)
        joined = torch.cat(lines, dim=few[0].axis_of_bins), torch.cat(matrices, dim=1)
        few[0].add(out, images, outputs, *joined)
    for part in parts:
        if not part.has_few_bins:
            for product in part.products(images, outputs):
                part.add(out, images, outputs, *product)


def _blocks(out: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and output channels that are computed at a time, on a CPU few enough for its cache."""
    images, outputs, height, width = out.shape
    some, one = outputs, images
    if out.device.type == 'cpu':
        one = 1
        if not is_channels_last(out):
            some = min(outputs, max(1, NUMBERS_AT_ONCE // (height * width)))
    for first in range(0, outputs, some):
        for image in range(0, images, one):
            yield slice(image, image + one), slice(first, min(first + some, outputs))


class _Part:
    """One level, (N, C, h, w), with the kernel for it, (O, C, k_h, k_w).

    Subclasses compute along the axes in the order in which a map lies in memory, so that they copy
    nothing but kernels.
    """

    def __init__(self, out: Tensor, level: Tensor, weight: Tensor, align_corners: bool) -> None:
        self.level, self.weight, self.dtype = level, weight, out.dtype
        # (H, h, k_h) and (W, w, k_w)
        self.rows, self.columns = (
            interpolation_operator(*sizes, align_corners, like=at_least_float32(out.new_empty(0)))
            for sizes in zip(out.shape[2:], level.shape[2:], weight.shape[2:])
        )
        n, channels, h, w = level.shape
        # Then the kernel, which is larger, is taken as it lies: see :meth:`_bins_as_kernels`.
        self.has_few_bins = n * h * w <= channels
        self.of_level: Tensor | None = None
        self.of_weight: Tensor | None = None

    def need_gradients(self, of_level: bool, of_weight: bool) -> None:
        """Start the sums of :meth:`add_gradients`."""
        self.needs_gradients = of_level, of_weight
        if self.has_few_bins:
            n, _, h, w = self.level.shape
            outputs, _, *kernel = self.weight.shape
            self.of_few_taps = self.rows.new_empty(n, outputs, h, w, *kernel)
            return
        if of_level:
            self.of_level = at_least_float32(torch.zeros_like(self.level))
        if of_weight:
            self.of_weight = at_least_float32(torch.zeros_like(self.weight))

    # The axis of what :meth:`products` yields along which the bins of a line lie.
    axis_of_bins: int

    def products(self, images: slice, outputs: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """For each tap lines that are upsampled along one axis, and the matrix for the other."""
        raise NotImplementedError

    def add(
        self, out: Tensor, images: slice, outputs: slice, lines: Tensor, matrix: Tensor
    ) -> None:
        """Add a product of :meth:`products` to some images and output channels of ``out``."""
        raise NotImplementedError

    def add_gradients(self, grad: Tensor, images: slice, outputs: slice) -> None:
        """Add what comes from the gradient of some images and output channels."""
        raise NotImplementedError

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Of the level and of the weight, after all of :meth:`add_gradients`."""
        if self.has_few_bins:
            n, c, h, w = self.level.shape
            bins = self._bins_as_kernels()
            taps = self.of_few_taps.transpose(0, 1).flatten(1, 3).to(bins.dtype)
            if self.needs_gradients[0]:
                of_bins = conv2d_weight(self.weight, bins.shape, taps)
                self.of_level = of_bins.view(n, h, w, c).permute(0, 3, 1, 2)
            if self.needs_gradients[1]:
                self.of_weight = torch.einsum('opij,pc->ocij', taps, bins[..., 0, 0])
        return self.of_level, self.of_weight

    @functools.cached_property
    def few_taps(self) -> Tensor:
        """All taps, (N, O, h, w, k_h, k_w)."""
        n, _, h, w = self.level.shape
        taps = F.conv2d(self.weight, self._bins_as_kernels())
        return taps.unflatten(1, (n, h, w)).transpose(0, 1)

    def _bins_as_kernels(self) -> Tensor:
        """(n h w, C, 1, 1); the convolution's kernel is O images of k_h x k_w pixels to them."""
        bins = self.level.to(self.weight.dtype).permute(0, 2, 3, 1)
        return bins.reshape(-1, self.level.shape[1], 1, 1)


class _ContiguousPart(_Part):
    """Rows are upsampled in each channel, columns in all of them at once: (o, h, w) as it lies."""

    def _kernels(self, outputs: slice, tap: int) -> Tensor:
        """(o k_h, C)."""
        kernels = self.weight[outputs, :, :, tap].transpose(1, 2)
        return kernels.reshape(-1, kernels.shape[2]).to(self.dtype)

    def _taps(self, images: slice, outputs: slice, tap: int) -> Tensor:
        """(n o, k_h h, w)."""
        h, w = self.level.shape[2:]
        if self.has_few_bins:
            taps = self.few_taps[images, outputs, ..., tap].permute(0, 1, 4, 2, 3)
        else:
            level, kernels = (
                self.level[images].flatten(2).to(self.dtype),
                self._kernels(outputs, tap),
            )
            taps = torch.bmm(kernels.expand(len(level), -1, -1), level)
        return at_least_float32(taps).reshape(-1, h * self.rows.shape[2], w)

    axis_of_bins = 2

    def products(self, images: slice, outputs: slice) -> Iterator[tuple[Tensor, Tensor]]:
        rows = self.rows.mT.flatten(1)
        for tap, columns in enumerate(self.columns.unbind(2)):
            taps = self._taps(images, outputs, tap)
            yield torch.bmm(rows.expand(len(taps), -1, -1), taps), columns  # (n o, H, w), (W, w)

    def add(
        self, out: Tensor, images: slice, outputs: slice, lines: Tensor, matrix: Tensor
    ) -> None:
        target = out[images, outputs]
        target.view(-1, target.shape[3]).addmm_(lines.flatten(0, 1), matrix.T)

    def add_gradients(self, grad: Tensor, images: slice, outputs: slice) -> None:
        n, _, h, w = self.level[images].shape
        height, width = grad.shape[2:]
        rows = self.rows.mT.flatten(1).T
        for tap, columns in enumerate(self.columns.to(self.dtype).unbind(2)):
            lines = (grad[images, outputs].reshape(-1, width) @ columns).unflatten(0, (-1, height))
            taps = torch.bmm(rows.expand(len(lines), -1, -1), lines.to(rows.dtype))
            if self.has_few_bins:
                target = self.of_few_taps[images, outputs, ..., tap]
                target.copy_(taps.view(n, -1, target.shape[4], h, w).permute(0, 1, 3, 4, 2))
                continue
            taps = taps.view(n, -1, h * w).to(self.dtype)
            if self.of_level is not None:
                kernels = self._kernels(outputs, tap).T.expand(n, -1, -1)
                self.of_level[images] += torch.bmm(kernels, taps).unflatten(2, (h, w))
            if self.of_weight is not None:
                level = self.level[images].flatten(2).to(self.dtype)
                kernels = torch.einsum('nkp,ncp->kc', taps, level)
                target = self.of_weight[outputs, :, :, tap]
                target += kernels.unflatten(0, (-1, target.shape[2])).transpose(1, 2)


class _ChannelsLastPart(_Part):
    """Columns are upsampled in each row, rows in all columns at once: (h, w, O) as it lies."""

    def _kernels(self, tap: int) -> Tensor:
        """(k_w O, C)."""
        return self.weight[:, :, tap].permute(2, 0, 1).flatten(0, 1).to(self.dtype)

    def _taps(self, images: slice, tap: int) -> Tensor:
        """(n h, w k_w, O)."""
        outputs, k_w = self.weight.shape[0], self.columns.shape[2]
        if self.has_few_bins:
            taps = self.few_taps[images, ..., tap, :].permute(0, 2, 3, 4, 1)
        else:
            level = self.level[images].permute(0, 2, 3, 1).to(self.dtype)
            taps = F.linear(level, self._kernels(tap))
        return at_least_float32(taps).reshape(-1, self.level.shape[3] * k_w, outputs)

    axis_of_bins = 1

    def products(self, images: slice, outputs: slice) -> Iterator[tuple[Tensor, Tensor]]:
        columns = self.columns.flatten(1)
        for tap, rows in enumerate(self.rows.unbind(2)):
            taps = self._taps(images, tap)
            lines = torch.bmm(columns.expand(len(taps), -1, -1), taps)
            yield lines.view(-1, self.rows.shape[1], lines[0].numel()), rows  # (n, h, W O), (H, h)

    def add(
        self, out: Tensor, images: slice, outputs: slice, lines: Tensor, matrix: Tensor
    ) -> None:
        target = out[images].permute(0, 2, 3, 1)
        target = target.view(*target.shape[:2], -1)  # never a copy
        target.baddbmm_(matrix.expand(len(target), -1, -1), lines)

    def add_gradients(self, grad: Tensor, images: slice, outputs: slice) -> None:
        n, _, h, w = self.level[images].shape
        count, width = grad.shape[1], grad.shape[3]
        whole = grad[images].permute(0, 2, 3, 1).flatten(2)
        columns = self.columns.flatten(1).T
        for tap, rows in enumerate(self.rows.to(self.dtype).unbind(2)):
            lines = torch.bmm(rows.T.expand(n, -1, -1), whole).view(-1, width, count)
            taps = torch.bmm(columns.expand(n * h, -1, -1), lines.to(columns.dtype))
            if self.has_few_bins:
                target = self.of_few_taps[images, ..., tap, :]
                target.copy_(taps.view(n, h, w, -1, count).permute(0, 4, 1, 2, 3))
                continue
            taps = taps.view(n * h * w, -1).to(self.dtype)  # (n h w, k_w O)
            if self.of_level is not None:
                bins = (taps @ self._kernels(tap)).unflatten(0, (n, h, w))
                self.of_level[images] += bins.permute(0, 3, 1, 2)
            if self.of_weight is not None:
                level = self.level[images].permute(0, 2, 3, 1).flatten(0, 2).to(self.dtype)
                kernels = (taps.T @ level).unflatten(0, (-1, count))
                self.of_weight[:, :, tap] += kernels.permute(1, 2, 0)
