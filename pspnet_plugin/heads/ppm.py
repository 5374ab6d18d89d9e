"""mmseg's pyramid pooling module ``PPM``, pooled in one pass and not upsampled."""

from __future__ import annotations

from mmseg.models.decode_heads.psp_head import PPM
from torch import Tensor, nn

from ..ops.pyramid import pool_pyramid
from .convolutions import Pyramid
from .modified_modules import runs_as_written


def pooled_levels(ppm: PPM, x: Tensor) -> Pyramid:
    """x, (N, C, H, W), and its levels of b x b bins, (N, channels, b, b)."""
    pooled = pool_pyramid(x, [pool.output_size for pool, _ in ppm])
    maps = (x, *(conv(bins) for (_, conv), bins in zip(ppm, pooled)))
    return Pyramid(maps, ppm.align_corners)


def pools_squares(ppm: nn.Module) -> bool:
    """Whether each level of ``ppm`` is as mmseg builds it: a pool to b x b bins, and one module."""
    return isinstance(ppm, PPM) and runs_as_written(ppm, PPM) and all(map(_is_square_level, ppm))


def _is_square_level(level: nn.Module) -> bool:
    return (
        isinstance(level, nn.Sequential)
        and len(level) == 2
        and runs_as_written(level, nn.Sequential)
        and runs_as_written(level[0], nn.AdaptiveAvgPool2d)
        and isinstance(level[0].output_size, int)
    )
