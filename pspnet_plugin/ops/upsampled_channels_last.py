"""The steps of :mod:`.upsampled` in channels-last memory, where an image lies as (h, w, o).

The kernel's rows of taps are taken one at a time. The first product upsamples columns, in each row
by itself, and sums over the row's taps; the second upsamples the rows of all columns and channels
at once. So nothing large is copied into another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TAP_DIM = 2  # of a kernel (O, C, k_h, k_w): the dimension whose taps are taken one at a time
BIN_DIM = 1  # of half upsampled maps (n, h, W, o): the dimension that is still to be upsampled


def split_matrices(rows: Tensor, columns: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """From (H, h, k_h) and (W, w, k_w): the first matrix, (W, w k_w), and each tap's second one."""
    return columns.flatten(1), rows.unbind(2)


def tap_maps(bins: Tensor, kernel: Tensor) -> Tensor:
    """Bins (n, C, h, w) multiplied with each tap of a kernel (o, C, k_w): (n, h, w k_w, o)."""
    n, _, h, _ = bins.shape
    return F.linear(bins.permute(0, 2, 3, 1), _as_matrix(kernel)).reshape(n, h, -1, len(kernel))


def from_all_taps(maps: Tensor) -> Tensor:
    """(n, o, h, w, k_w) in the order of :func:`tap_maps`."""
    return maps.permute(0, 2, 3, 4, 1).flatten(2, 3)


def to_all_taps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(n, h, w k_w, o) back to (n, o, h, w, k_w); ``size`` is (h, w)."""
    return maps.unflatten(2, (size[1], -1)).permute(0, 4, 1, 2, 3)


def add_upsampled(out: Tensor, lines: Tensor, second: Tensor) -> None:
    """Upsample half upsampled maps (n, h, W, o) by (H, h), and add them to (n, o, H, W)."""
    target = out.permute(0, 2, 3, 1)
    target = target.view(*target.shape[:2], -1)  # never a copy
    target.baddbmm_(second.expand(len(target), -1, -1), lines.flatten(2))


def tap_maps_gradient(grad: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """From the gradient of the output, (n, o, H, W), that of :func:`tap_maps`."""
    n, outputs, _, width = grad.shape
    by_row = grad.permute(0, 2, 3, 1).flatten(2)
    lines = torch.bmm(second.T.expand(n, -1, -1), by_row).view(-1, width, outputs)
    maps = torch.bmm(first.T.expand(len(lines), -1, -1), lines.to(first.dtype))
    return maps.unflatten(0, (n, -1))


def bins_gradient(grad: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
    """From the gradient of :func:`tap_maps` that of the bins, (n, C, h, w)."""
    bins = _by_bin(grad, size) @ _as_matrix(kernel)
    return bins.unflatten(0, (-1, *size)).permute(0, 3, 1, 2)


def kernel_gradient(grad: Tensor, bins: Tensor) -> Tensor:
    """From the gradient of :func:`tap_maps` that of the kernel, (o, C, k_w)."""
    by_bin = bins.permute(0, 2, 3, 1).flatten(0, 2)
    kernel = _by_bin(grad, bins.shape[2:]).T @ by_bin
    return kernel.unflatten(0, (-1, grad.shape[3])).permute(1, 2, 0)


def _as_matrix(kernel: Tensor) -> Tensor:
    """(o, C, k_w) as (k_w o, C)."""
    return kernel.permute(2, 0, 1).flatten(0, 1)


def _by_bin(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(n, h, w k_w, o) as (n h w, k_w o)."""
    return maps.view(len(maps) * size[0] * size[1], -1)
