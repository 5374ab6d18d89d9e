"""The steps of :mod:`.upsampled` in contiguous memory, where an image lies as (o, h, w).

The kernel's columns of taps are taken one at a time. The first product upsamples rows, in each
channel by itself, and sums over the column's taps; the second upsamples the columns of all channels
at once. So nothing large is copied into another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TAP_DIM = 3  # of a kernel (O, C, k_h, k_w): the dimension whose taps are taken one at a time
BIN_DIM = 3  # of half upsampled maps (n, o, H, w): the dimension that is still to be upsampled


def split_matrices(rows: Tensor, columns: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """From (H, h, k_h) and (W, w, k_w): the first matrix, (H, k_h h), and each tap's second one."""
    return rows.mT.flatten(1), columns.unbind(2)


def tap_maps(bins: Tensor, kernel: Tensor) -> Tensor:
    """Bins (n, C, h, w) multiplied with each tap of a kernel (o, C, k_h): (n, o, k_h h, w)."""
    n, _, h, w = bins.shape
    outputs, _, taps = kernel.shape
    maps = torch.bmm(_as_matrix(kernel).expand(n, -1, -1), bins.flatten(2))
    return maps.view(n, outputs, taps * h, w)


def from_all_taps(maps: Tensor) -> Tensor:
    """(n, o, h, w, k_h) in the order of :func:`tap_maps`."""
    return maps.permute(0, 1, 4, 2, 3).flatten(2, 3)


def to_all_taps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(n, o, k_h h, w) back to (n, o, h, w, k_h); ``size`` is (h, w)."""
    return maps.unflatten(2, (-1, size[0])).permute(0, 1, 3, 4, 2)


def add_upsampled(out: Tensor, lines: Tensor, second: Tensor) -> None:
    """Upsample half upsampled maps (n, o, H, w) by (W, w), and add them to (n, o, H, W)."""
    out.view(-1, out.shape[3]).addmm_(lines.flatten(0, 2), second.T)


def tap_maps_gradient(grad: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """From the gradient of the output, (n, o, H, W), that of :func:`tap_maps`."""
    n, outputs, height, width = grad.shape
    lines = (grad.reshape(-1, width) @ second).view(n * outputs, height, -1)
    maps = torch.bmm(first.T.expand(len(lines), -1, -1), lines.to(first.dtype))
    return maps.unflatten(0, (n, outputs))


def bins_gradient(grad: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
    """From the gradient of :func:`tap_maps` that of the bins, (n, C, h, w)."""
    n = len(grad)
    bins = torch.bmm(_as_matrix(kernel).T.expand(n, -1, -1), _by_bin(grad, size))
    return bins.unflatten(2, size)


def kernel_gradient(grad: Tensor, bins: Tensor) -> Tensor:
    """From the gradient of :func:`tap_maps` that of the kernel, (o, C, k_h)."""
    size = bins.shape[2:]
    kernel = torch.einsum('nkp,ncp->kc', _by_bin(grad, size), bins.flatten(2))
    return kernel.unflatten(0, (grad.shape[1], -1)).transpose(1, 2)


def _as_matrix(kernel: Tensor) -> Tensor:
    """(o, C, k_h) as (o k_h, C)."""
    return kernel.transpose(1, 2).reshape(-1, kernel.shape[1])


def _by_bin(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(n, o, k_h h, w) as (n, o k_h, h w)."""
    return maps.view(len(maps), -1, size[0] * size[1])
