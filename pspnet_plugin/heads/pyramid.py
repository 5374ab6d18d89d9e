"""The pyramid of PSPNet as pure tensor functions: pooled in one pass, convolved without upsampling.

The pyramid concatenates a map x with upsampled copies of its pooled levels and convolves the whole.
Convolution and bilinear upsampling are linear, so the sum over input channels splits, and in each
level's part the order may be turned round:

    conv(W, [x, up(p_1), ..., up(p_L)]) = conv(W_x, x) + sum_l sum_t  S_t up(W_lt p_l)

W_lt is the kernel's matrix at tap t for the channels of level l, applied at the level's few bins,
and S_t shifts a map by the tap, with zeros where it leaves the map. ``S_t up`` of all taps and
levels is one fixed matrix for the rows and one for the columns, because both the upsampling and the
shift are separable. Nothing is approximated; docs/performance.md derives and counts it.

The operators depend on sizes alone. They are built once per size from integers, with a single
division at the end, so their entries are the exact values rounded once.
"""

from __future__ import annotations

import functools
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_pyramid(x: Tensor, pool_scales: tuple[int, ...]) -> list[Tensor]:
    """Average-pool a map to every level of the pyramid, reading it once.

    Args:
        x: (N, C, H, W), contiguous or channels-last.
        pool_scales: bins per side of each level; any number, also above H or W.

    Returns:
        For each level b: (N, C, b, b), what ``F.adaptive_avg_pool2d(x, b)`` gives.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = pooling_operator(x.shape[2], pool_scales, like=x)
        columns = pooling_operator(x.shape[3], pool_scales, like=x)
        cells = _along_width(columns, _along_height(rows, x))
    ends = list(accumulate(pool_scales))
    return [cells[:, :, end - b : end, end - b : end] for b, end in zip(pool_scales, ends)]


def conv2d_over_pyramid(
    x: Tensor,
    levels: list[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Convolve ``[x, up(level_1), ..., up(level_L)]``, zero-padded to the same size.

    Args:
        x: (N, C, H, W), contiguous or channels-last.
        levels: each (N, C_l, h_l, w_l), read as bilinearly upsampled to (H, W).
        weight: (O, C + sum of C_l, k_h, k_w) with odd k_h and k_w.
        bias: (O,).
        align_corners: of the upsampling, as in ``F.interpolate``.

    Returns:
        (N, O, H, W) in the memory format that ``F.conv2d`` gives for x.
    """
    kernel_size = weight.shape[2:]
    weight_x, *level_weights = weight.split([x.shape[1], *(p.shape[1] for p in levels)], dim=1)
    out = F.conv2d(x, weight_x, bias, padding=[k // 2 for k in kernel_size])
    with torch.autocast(x.device.type, enabled=False):
        # A transposed convolution whose stride is its kernel: each bin, once for every tap.
        taps = [
            F.conv_transpose2d(level.to(w.dtype), w.transpose(0, 1), stride=kernel_size)
            for level, w in zip(levels, level_weights)
        ]
        return out.add_(upsample_taps(taps, kernel_size, out, align_corners))


def upsample_taps(taps, kernel_size, like: Tensor, align_corners: bool) -> Tensor:
    heights = tuple(t.shape[2] // kernel_size[0] for t in taps)
    widths = tuple(t.shape[3] // kernel_size[1] for t in taps)
    rows = interpolation_operator(like.shape[2], heights, kernel_size[0], align_corners, like=taps[0])
    columns = interpolation_operator(like.shape[3], widths, kernel_size[1], align_corners, like=taps[0])
    columns = columns.split([t.shape[3] for t in taps], dim=1)
    wide = torch.cat([_along_width(c, t) for c, t in zip(columns, taps)], dim=2)
    return _along_height(rows, wide)


def pooling_operator(size: int, bins: tuple[int, ...], like: Tensor) -> Tensor:
    count, index = _stacked_bins(bins, like)
    pixel = torch.arange(size, device=like.device)
    # Pixel [y, y + 1) / size and bin [i, i + 1) / count overlap.
    members = ((pixel + 1) * count > index * size) & (pixel * count < (index + 1) * size)
    return members.to(like.dtype) / members.sum(1, keepdim=True)


def interpolation_operator(size, bins, kernel_size, align_corners, like):
    count, index = _stacked_bins(bins, like)
    tap = torch.arange(kernel_size, device=like.device) - kernel_size // 2
    pixel = torch.arange(size, device=like.device).view(-1, 1, 1) + tap
    if align_corners:
        position, unit = pixel * (count - 1), max(size - 1, 1)
    else:
        position, unit = (2 * pixel + 1) * count - size, 2 * size
    position = torch.minimum(position.clamp(min=0), (count - 1) * unit)
    weight = (unit - (position - index * unit).abs()).clamp(min=0)
    weight = weight * ((pixel >= 0) & (pixel < size))
    return (weight.to(like.dtype) / unit).flatten(1)


def _stacked_bins(bins, like):
    pairs = [(b, i) for b in bins for i in range(b)]
    return torch.tensor(pairs, device=like.device).T.unsqueeze(-1).unbind(0)


def _along_height(operator, x):
    return operator @ x


def _along_width(operator, x):
    return x @ operator.T
