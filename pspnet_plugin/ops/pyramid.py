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

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from .conv2d import conv2d_same
from .matrices import pooling_matrices
from .memory_format import is_channels_last
from .precision import at_least_float32, without_autocast
from .stacked_levels import AddConv2dOfLevels, PoolLevels
from .tracing import is_recorded, is_transformed
from .upsampled import add_conv2d_of_upsampled

# Below so many numbers that are neither written nor read, starting a few more operations may take a
# fast GPU longer.
WORTH_THE_LAUNCHES = 2**24


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
    if x.device.type != 'cpu' and not is_recorded(x):
        return list(PoolLevels.apply(x, scales))
    with without_autocast(x):
        # The first product is along the second innermost dimension in memory: it copies nothing.
        if is_channels_last(x):
            sums, factors = pooling_matrices(x.shape[3], scales, like=x)
            lines = at_least_float32(sums @ x.permute(0, 2, 3, 1))  # (N, H, bins, C)
            means = torch.mul(*pooling_matrices(x.shape[2], scales, like=lines))
            # Not unflatten(), which torch 2.0 cannot write as ONNX.
            cells = (means @ lines.flatten(2)).reshape(x.shape[0], len(means), *lines.shape[2:])
            cells = cells.permute(0, 3, 1, 2) * factors.T
        else:
            sums, factors = pooling_matrices(x.shape[2], scales, like=x)
            lines = at_least_float32(sums @ x)  # (N, C, bins, W)
            means = torch.mul(*pooling_matrices(x.shape[3], scales, like=lines))
            cells = lines @ means.T * factors
        cells = cells.to(x.dtype)
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
    if x.device.type != 'cpu':
        fine, levels = _fine_and_coarse(x, levels, weight)
        x = concatenate_pyramid(x, fine, align_corners) if fine else x
    if not levels:
        return conv2d_same(x, weight, bias)
    # As plain numbers: the exporter of torch 2.0 needs to know the shape of each kernel.
    channels = [int(a_map.shape[1]) for a_map in (x, *levels)]
    if x.device.type == 'cpu' or is_recorded(x):
        weight_of_x, *weights = weight.split(channels, dim=1)
        out = conv2d_same(x, weight_of_x, bias)
        return add_conv2d_of_upsampled(out, levels, weights, align_corners)
    weight_of_x, weight_of_levels = weight.split([channels[0], sum(channels[1:])], dim=1)
    out = conv2d_same(x, weight_of_x, bias)
    return AddConv2dOfLevels.apply(out, weight_of_levels, align_corners, *levels)


def _fine_and_coarse(
    x: Tensor, levels: Sequence[Tensor], weight: Tensor
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The levels that are upsampled before the convolution, as in stock, and those after it.

    GPUs multiply so fast that what is written and read counts. In training an upsampled level goes
    through memory about eight times, by upsampling, concatenation, convolution and their gradients.
    Of a level that is convolved first, its maps of all taps go nine times, their rows upsampled
    four times, and for all such levels together the output three times.
    """
    n, _, height, width = x.shape
    outputs, _, *kernel = weight.shape
    saved, split = -3 * outputs * height * width, len(levels)
    for level in reversed(levels):
        channels, h, w = level.shape[1:]
        taps, rows = h * w * kernel[0] * kernel[1], h * kernel[0] * width
        gain = 8 * channels * height * width - outputs * (9 * taps + 4 * rows)
        if gain < 0:
            break
        saved, split = saved + gain, split - 1
    return (levels[:split], levels[split:]) if n * saved > WORTH_THE_LAUNCHES else (levels, [])
