"""The pyramid of PSPNet as tensor functions: pooled in one pass, convolved without upsampling it.

PSPNet concatenates a map x with upsampled copies of its pooled levels and convolves all of it.
Convolution and bilinear upsampling are linear, so the sum over the input channels splits, and in
each level's part the kernel may be applied first, at the level's few bins, and upsampled then:

    conv(W, [x, up(p_1), ..., up(p_L)]) = conv(W_x, x) + sum over levels l and taps t of
                                          shift_t(up(W_lt p_l))

W_lt is the matrix that the kernel holds at tap t for the channels of level l; ``shift_t`` moves a
map by that tap and fills with the convolution's zeros. Shifting and upsampling are separable: for
all levels and taps together they are one small fixed matrix for the rows and one for the columns.
Nothing is approximated. docs/performance.md derives the identity and counts the operations.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from . import torch_state, winograd


def pool_pyramid(x: Tensor, pool_scales: tuple[int, ...]) -> list[Tensor]:
    """Average-pool a map to all levels of the pyramid, reading it once.

    Args:
        x: (N, C, H, W), contiguous or channels-last.
        pool_scales: the bins per side of each level; they may overlap and outnumber H or W.

    Returns:
        For each level of b bins (N, C, b, b), as ``F.adaptive_avg_pool2d(x, b)`` gives.
    """
    scales = tuple(pool_scales)
    channels_last = _is_channels_last(x)
    outer, inner = _memory_order(x)
    with _without_autocast(x):
        sums, rest = pooling_operator(x.shape[inner], scales, like=x)
        strips = _full_precision(_multiply(sums, x, inner, channels_last))
        means = torch.mul(*pooling_operator(x.shape[outer], scales, like=strips))
        cells = _multiply(means, strips, outer, channels_last)
        cells = (cells * (rest if inner == 2 else rest.T)).to(x.dtype)
    ends = accumulate(scales)
    return [cells[:, :, end - b : end, end - b : end] for b, end in zip(scales, ends)]


def conv2d_over_pyramid(
    x: Tensor,
    levels: list[Tensor],
    weight: Tensor,
    bias: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Convolve the concatenation of x and its upsampled levels, zero-padded to keep the size.

    Args:
        x: (N, C, H, W), contiguous or channels-last.
        levels: (N, C_l, h_l, w_l) each, standing for its bilinear upsampling to (H, W); or none.
        weight: (O, C + C_1 + ... + C_L, k_h, k_w); k_h and k_w are odd.
        bias: (O,).
        align_corners: of the upsampling, as in ``F.interpolate``.

    Returns:
        (N, O, H, W), in the memory format in which ``F.conv2d`` returns it.
    """
    channels = [x.shape[1], *(level.shape[1] for level in levels)]
    weight_of_x, *weights = weight.split(channels, dim=1)
    out = _conv2d_of_map(x, weight_of_x, bias)
    if not levels:
        return out
    with _without_autocast(x):
        taps = [apply_taps(level, w) for level, w in zip(levels, weights)]
        return out.add_(upsample_taps(taps, weight.shape[2:], out, align_corners))


def _conv2d_of_map(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.conv2d`` with zero padding that keeps the size, by the fastest way there is."""
    # Asked in this order: sizes that are compared become conditions of a recorded graph.
    if not (_is_recorded(x) or torch_state.autocasts_on_cpu()) and winograd.pays(x, weight):
        out = winograd.conv2d_3x3(x, weight)
        return out if bias is None else out.add_(bias.view(-1, 1, 1))
    return F.conv2d(x, weight, bias, padding=[k // 2 for k in weight.shape[2:]])


def apply_taps(level: Tensor, weight: Tensor) -> Tensor:
    """Multiply each bin with the matrix that the kernel holds at each tap.

    Args:
        level: (N, C, h, w).
        weight: (O, C, k_h, k_w).

    Returns:
        (N, O, h k_h, w k_w): row ``i * k_h + t`` holds tap t at bin i, and so do the columns.
    """
    n, c, h, w = level.shape
    # The kernel lies in memory like O pictures of k_h x k_w pixels. The bins run over them as 1 x 1
    # filters; a matrix product would first make, and keep, a transposed copy of the kernel.
    filters = level.to(weight.dtype).permute(0, 2, 3, 1).reshape(-1, c, 1, 1)
    taps = F.conv2d(weight, filters).unflatten(1, (n, h, w))
    return taps.permute(1, 0, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)


def upsample_taps(
    taps: list[Tensor], kernel_size: tuple[int, int], output: Tensor, align_corners: bool
) -> Tensor:
    """Upsample what :func:`apply_taps` made of each level, shift each tap, and sum all.

    Args:
        taps: (N, O, h_l k_h, w_l k_w) each.
        output: (N, O, H, W), what the result is to be added to.

    Returns:
        (N, O, H, W), in the dtype and the memory format of ``output``.
    """
    channels_last = _is_channels_last(output)
    outer, inner = _memory_order(output)
    taps = [_full_precision(t) for t in taps]

    def operator(dim, like):
        bins = tuple(t.shape[dim] // kernel_size[dim - 2] for t in taps)
        size = output.shape[dim]
        return interpolation_operator(size, bins, kernel_size[dim - 2], align_corners, like=like)

    operators = operator(outer, like=taps[0]).split([t.shape[outer] for t in taps], dim=1)
    partial = [_multiply(m, t, outer, channels_last) for m, t in zip(operators, taps)]
    partial = torch.cat(partial, dim=inner).to(output.dtype)
    return _multiply(operator(inner, like=partial), partial, inner, channels_last)


# --- operators: functions of sizes, built once --------------------------------------------------


def built_once(build):
    """Keep what ``build(*sizes, like=tensor)`` returns, for each dtype and device.

    Compilers and exporters record the arithmetic of ``build`` instead, so that sizes may stay
    symbolic, and never see a tensor from outside.
    """

    @functools.lru_cache(maxsize=256)
    def build_real(sizes, dtype, device):
        with torch.inference_mode(False):  # a tensor of inference mode would be useless in training
            return build(*sizes, like=torch.empty(0, dtype=dtype, device=device))

    @functools.wraps(build)
    def operator(*sizes, like: Tensor) -> Tensor:
        if _is_recorded(like):
            return build(*sizes, like=like)
        return build_real(sizes, like.dtype, like.device)

    return operator


@built_once
def pooling_operator(size: int, bins: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Adaptive average pooling of a line to every level, as a product of two factors.

    Returns:
        Weights that are zero or a power of two, exact in half precision where 1 / 21 is not,
        (sum of bins, size); and what makes means of such sums, in [1, 2), (sum of bins, 1).
    """
    count, index = _stacked_bins(bins, like)
    pixel = torch.arange(size, device=like.device)
    # Bin [index, index + 1) / count averages the pixels [pixel, pixel + 1) / size it overlaps.
    overlap = ((pixel + 1) * count > index * size) & (pixel * count < (index + 1) * size)
    mean = _full_precision(like.new_ones(())) / overlap.sum(dim=1, keepdim=True)
    power = 2 ** torch.floor(torch.log2(mean))
    return (overlap * power).to(like.dtype), mean / power


@built_once
def interpolation_operator(
    size: int, bins: tuple[int, ...], kernel_size: int, align_corners: bool, like: Tensor
) -> Tensor:
    """Linear upsampling of a line of every level, shifted by each tap of a kernel.

    Up to the last division it computes with integers, so each weight is the exact one, rounded.

    Returns:
        (size, sum of bins * kernel_size); column ``i * kernel_size + t`` is tap t of bin i.
    """
    count, index = _stacked_bins(bins, like)
    tap = torch.arange(kernel_size, device=like.device) - kernel_size // 2
    pixel = torch.arange(size, device=like.device)[:, None, None] + tap
    if align_corners:
        position, unit = pixel * (count - 1), max(size - 1, 1)
    else:
        position, unit = (2 * pixel + 1) * count - size, 2 * size
    position = torch.minimum(position.clamp(min=0), (count - 1) * unit)
    weight = (unit - (position - index * unit).abs()).clamp(min=0)
    inside = (pixel >= 0) & (pixel < size)
    exact = _full_precision(like.new_ones(())) * (weight * inside) / unit
    return exact.to(like.dtype).flatten(1)


def _stacked_bins(bins: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """For every bin of every level: how many its level has, and which it is; (sum of bins, 1)."""
    pairs = [(count, index) for count in bins for index in range(count)]
    return torch.tensor(pairs, device=like.device).split(1, dim=1)


# --- products with an operator, in the memory order of the map ----------------------------------


def _is_recorded(x: Tensor) -> bool:
    """Whether a compiler or an exporter notes what is done, for other sizes and machines."""
    return torch_state.is_compiling() or torch.jit.is_tracing() or type(x) is not Tensor


def _without_autocast(x: Tensor) -> AbstractContextManager:
    on_meta = x.device.type == 'meta'  # shapes only; autocast does not know that device
    return nullcontext() if on_meta else torch.autocast(x.device.type, enabled=False)


def _full_precision(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _memory_order(x: Tensor) -> tuple[int, int]:
    """The spatial dimensions, the outer first; the inner one of a contiguous map is its height.

    A product along the dimension that lies second to last in memory reads a map as it is.
    """
    return (2, 3) if _is_channels_last(x) else (3, 2)


def _multiply(operator: Tensor, x: Tensor, dim: int, channels_last: bool) -> Tensor:
    """Multiply a map along its height (dim 2) or width (dim 3), without reordering its memory."""
    if not channels_last:
        return operator @ x if dim == 2 else x @ operator.T
    x = x.permute(0, 2, 3, 1)
    x = operator @ x if dim == 3 else (operator @ x.flatten(2)).unflatten(2, x.shape[2:])
    return x.permute(0, 3, 1, 2)
