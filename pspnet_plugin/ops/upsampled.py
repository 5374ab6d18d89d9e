"""The convolution of upsampled maps, applied before they are upsampled.

Each level is multiplied with the kernel's matrix of each tap where it has few positions. Two matrix
products upsample and shift these tap maps, one axis after the other; the second one sums over taps
and levels. :mod:`.pyramid` has the formula, docs/performance.md its derivation.

The axes are taken in the order in which the output lies in memory: what depends on that order is in
:mod:`.upsampled_contiguous` and :mod:`.upsampled_channels_last`, the same functions in each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from . import upsampled_channels_last, upsampled_contiguous
from .matrices import interpolation_matrix
from .memory_format import is_channels_last
from .precision import at_least_float32, without_autocast
from .tracing import is_recorded

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
    pairs = zip(levels, weights)
    return _Addition.apply(out, align_corners, *(tensor for pair in pairs for tensor in pair))


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
        rows, cols = _matrices(like.shape[2:], level, weight, align_corners, like=taps)
        rows_upsampled = (rows.permute(2, 0, 1)[:, None, None] @ taps).sum(dim=1)
        lines.extend(rows_upsampled.unbind(1))
        columns.extend(cols.unbind(2))
    stacked, matrix = torch.cat(lines, dim=3), torch.cat(columns, dim=1)
    # Both factors have four dimensions: else one is flattened, which is a condition on the sizes.
    return stacked.to(like.dtype) @ matrix.T.to(like.dtype)[None, None]


def _matrices(
    size: Sequence[int], level: Tensor, weight: Tensor, align_corners: bool, like: Tensor
) -> list[Tensor]:
    """That upsample and shift rows, (H, h, k_h), and columns, (W, w, k_w)."""
    axes = zip(size, level.shape[2:], weight.shape[2:])
    return [interpolation_matrix(*axis, align_corners, like=like) for axis in axes]


class _Addition(torch.autograd.Function):
    """Saves the levels and the weights alone for the backward pass."""

    @staticmethod
    def forward(out: Tensor, align_corners: bool, *tensors: Tensor) -> Tensor:
        pairs = zip(tensors[::2], tensors[1::2])
        with without_autocast(out):
            levels = [_Level.of(out, level, weight, align_corners) for level, weight in pairs]
            # In half precision the sum is rounded once, not for each tap.
            half = at_least_float32(out) is not out
            total = torch.zeros_like(out, dtype=torch.float32) if half else out
            _add(total, levels)
            return out.add_(total) if half else out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        out, ctx.align_corners, *tensors = inputs
        ctx.mark_dirty(out)
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        gradients: list[Tensor | None] = []
        with without_autocast(grad):
            if torch.is_grad_enabled():  # create_graph=True
                # Views, because one level may be made of another, and no gradient goes through it.
                tensors = [tensor[...] for tensor in tensors]
                levels, weights = tensors[::2], tensors[1::2]
                whole = conv2d_of_upsampled(grad, levels, weights, ctx.align_corners)
                wanted = [tensor for tensor, needs in zip(tensors, needed) if needs]
                found = iter(torch.autograd.grad(whole, wanted, grad, create_graph=True))
                return grad, None, *(next(found) if needs else None for needs in needed)
            for i in range(0, len(tensors), 2):
                level = _Level.of(grad, tensors[i], tensors[i + 1], ctx.align_corners)
                backward = _gradients_of_few if level.few_bins else _gradients_of_many
                gradients += backward(grad, level, *needed[i : i + 2])
        return grad, None, *(g if g is None else g.to(t.dtype) for g, t in zip(gradients, tensors))


class _Level(NamedTuple):
    """A level with its part of the kernel, in the dtype that they are multiplied in."""

    layout: ModuleType  # one of the two modules of steps
    bins: Tensor  # (N, C, h, w)
    weight: Tensor  # (O, C, k_h, k_w)
    first: Tensor  # the matrices of the two products, see split_matrices() of the layout
    second: tuple[Tensor, ...]
    few_bins: bool

    @classmethod
    def of(cls, out: Tensor, bins: Tensor, weight: Tensor, align_corners: bool) -> _Level:
        """Prepare a level for an output, or its gradient, (N, O, H, W)."""
        layout = upsampled_channels_last if is_channels_last(out) else upsampled_contiguous
        like = at_least_float32(out.new_empty(0))
        matrices = _matrices(out.shape[2:], bins, weight, align_corners, like)
        first, second = layout.split_matrices(*matrices)
        n, channels, h, w = bins.shape
        # Then the kernel is larger than the level, and is read where it lies: see _all_taps().
        few_bins = n * h * w <= channels
        dtype = weight.dtype if few_bins else out.dtype
        return cls(layout, bins.to(dtype), weight.to(dtype), first, second, few_bins)


def _add(out: Tensor, levels: Sequence[_Level]) -> None:
    """Add the convolutions of all levels to ``out``, in at least float32."""
    layout = levels[0].layout
    few = [(level, _all_taps(level)) for level in levels if level.few_bins]
    many = [level for level in levels if not level.few_bins]
    for images, outputs in _blocks(out):
        target = out[images, outputs]
        products: list[tuple[Tensor, Tensor]] = []
        for level, all_taps in few:
            taps = all_taps[images, outputs].unbind(2 + layout.TAP_DIM)
            products.extend(_half_upsampled(level, map(layout.from_all_taps, taps)))
        if products:  # One long product takes less time than several short ones.
            lines, matrices = zip(*products)
            layout.add_upsampled(target, torch.cat(lines, layout.BIN_DIM), torch.cat(matrices, 1))
        for level in many:
            kernels = level.weight[outputs].unbind(layout.TAP_DIM)
            maps = (layout.tap_maps(level.bins[images], kernel) for kernel in kernels)
            for product in _half_upsampled(level, maps):
                layout.add_upsampled(target, *product)


def _half_upsampled(level: _Level, tap_maps: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """For each of the taps taken one at a time, the first product, and the second one's matrix."""
    for maps, second in zip(tap_maps, level.second):
        batch = at_least_float32(maps).flatten(0, 1)
        lines = torch.bmm(level.first.expand(len(batch), -1, -1), batch)
        yield lines.unflatten(0, maps.shape[:2]), second


def _gradients_of_many(
    grad: Tensor, level: _Level, of_bins: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """From the gradient of the output those of the bins and of the weight, where needed."""
    layout, bins, weight, first, seconds, _ = level
    grad_bins = at_least_float32(torch.zeros_like(bins)) if of_bins else None
    grad_weight = at_least_float32(torch.zeros_like(weight)) if of_weight else None
    for images, outputs in _blocks(grad):
        kernels = weight[outputs].unbind(layout.TAP_DIM)
        for tap, (kernel, second) in enumerate(zip(kernels, seconds)):
            maps = layout.tap_maps_gradient(grad[images, outputs], first, second.to(grad.dtype))
            maps = maps.to(grad.dtype)
            if grad_bins is not None:
                grad_bins[images] += layout.bins_gradient(maps, kernel, bins.shape[2:])
            if grad_weight is not None:
                target = grad_weight[outputs].select(layout.TAP_DIM, tap)
                target += layout.kernel_gradient(maps, bins[images])
    return grad_bins, grad_weight


# --- Few bins: all taps at once, without a copy of the kernel -------------------------------------


def _all_taps(level: _Level) -> Tensor:
    """The maps of all taps, (N, O, h, w, k_h, k_w)."""
    n, _, h, w = level.bins.shape
    maps = F.conv2d(level.weight, _bins_as_kernels(level.bins))
    return maps.unflatten(1, (n, h, w)).transpose(0, 1)


def _bins_as_kernels(bins: Tensor) -> Tensor:
    """(n h w, C, 1, 1): 1 x 1 kernels, to which the kernel is a batch of O images, k_h x k_w."""
    return bins.permute(0, 2, 3, 1).reshape(-1, bins.shape[1], 1, 1)


def _gradients_of_few(
    grad: Tensor, level: _Level, of_bins: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    layout, bins, weight, first, seconds, _ = level
    (n, channels, h, w), (outputs, _, *kernel_size) = bins.shape, weight.shape
    all_taps = first.new_empty(n, outputs, h, w, *kernel_size)
    for block in _blocks(grad):
        for target, second in zip(all_taps[block].unbind(2 + layout.TAP_DIM), seconds):
            maps = layout.tap_maps_gradient(grad[block], first, second.to(grad.dtype))
            target.copy_(layout.to_all_taps(maps, (h, w)))
    taps = all_taps.transpose(0, 1).flatten(1, 3).to(weight.dtype)  # (O, n h w, k_h, k_w)
    kernels = _bins_as_kernels(bins)
    grad_bins = grad_weight = None
    if of_bins:
        grad_kernels = conv2d_weight(weight, kernels.shape, taps)
        grad_bins = grad_kernels.view(n, h, w, channels).permute(0, 3, 1, 2)
    if of_weight:
        grad_weight = torch.einsum('opij,pc->ocij', taps, kernels[..., 0, 0])
    return grad_bins, grad_weight


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
