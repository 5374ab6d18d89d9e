"""The small matrices that pool and upsample, which depend on sizes alone.

Average pooling and linear upsampling of a line of pixels are linear, so each is a matrix. A map is
pooled or upsampled by two of them, one for its rows and one for its columns.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, TypeVar

import torch
from torch import Tensor

from .precision import at_least_float32
from .tracing import is_recorded

Built = TypeVar('Built')


def built_once(build: Callable[..., Built]) -> Callable[..., Built]:
    """Keep what ``build(*sizes, like=tensor)`` returns, for each dtype and device.

    Compilers and exporters record the arithmetic of ``build`` instead: sizes may stay symbolic, and
    no tensor from outside enters their graph.
    """

    @functools.lru_cache(maxsize=256)
    def build_real(sizes: tuple, dtype: torch.dtype, device: torch.device) -> Built:
        # A tensor that is made in inference mode could not be used in training later.
        with torch.inference_mode(False):
            return build(*sizes, like=torch.empty(0, dtype=dtype, device=device))

    @functools.wraps(build)
    def matrix(*sizes: Any, like: Tensor) -> Built:
        if is_recorded(like):
            return build(*sizes, like=like)
        return build_real(sizes, like.dtype, like.device)

    return matrix


@built_once
def pooling_matrices(size: int, bins: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """Adaptive average pooling of a line of ``size`` pixels to several levels, as two factors.

    Args:
        bins: the number of bins of each level.
        like: its dtype and device are those of the first factor.

    Returns:
        A matrix (sum of bins, size) of zeros and powers of two, which half precision holds exactly
        where it has to round 1 / 21; and the factors in [1, 2) that turn its sums into means,
        (sum of bins, 1), in at least float32.
    """
    pairs = [(count, index) for count in bins for index in range(count)]
    count, index = torch.tensor(pairs, device=like.device).split(1, dim=1)  # (sum of bins, 1) each
    pixel = torch.arange(size, device=like.device)
    # Bin [index, index + 1) / count averages the pixels [pixel, pixel + 1) / size that it overlaps.
    overlap = ((pixel + 1) * count > index * size) & (pixel * count < (index + 1) * size)
    mean = at_least_float32(like.new_ones(())) / overlap.sum(dim=1, keepdim=True)
    power = 2 ** torch.floor(torch.log2(mean))
    return (overlap * power).to(like.dtype), mean / power


@built_once
def mean_matrix(size: int, bins: tuple[int, ...], like: Tensor) -> Tensor:
    """The product of :func:`pooling_matrices`: (sum of bins, size), rounded in half precision."""
    return torch.mul(*pooling_matrices(size, bins, like=like))


@built_once
def interpolation_matrix(
    size: int, bins: int, kernel_size: int, align_corners: bool, like: Tensor
) -> Tensor:
    """Linear upsampling of a line of ``bins`` to ``size`` pixels, shifted by each kernel tap.

    Integers are divided once, at the end, so each weight is the exact one, rounded.

    Args:
        bins: how many there are; they may outnumber the pixels.
        kernel_size: the number of taps, odd; what a shift moves in from outside is zero.
        like: its dtype and device are those of the result.

    Returns:
        (size, bins, kernel_size): the weight in each pixel of each tap of each bin.
    """
    index = torch.arange(bins, device=like.device)[:, None]
    count = torch.zeros_like(index) + bins  # an exporter may know ``bins`` as a tensor
    tap = torch.arange(kernel_size, device=like.device) - kernel_size // 2
    pixel = torch.arange(size, device=like.device)[:, None, None] + tap
    # The pixel's position on the axis of bins, in units of which ``unit`` make a bin.
    if align_corners:
        position, unit = pixel * (count - 1), max(size - 1, 1)
    else:
        position, unit = (2 * pixel + 1) * count - size, 2 * size
    position = torch.minimum(position.clamp(min=0), (count - 1) * unit)
    weight = (unit - (position - index * unit).abs()).clamp(min=0)
    inside = (pixel >= 0) & (pixel < size)
    exact = at_least_float32(like.new_ones(())) * (weight * inside) / unit
    return exact.to(like.dtype)
