"""What several decode heads do with a pyramid of maps, and when they may."""

from __future__ import annotations

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.psp_head import PPM
from torch import Tensor, nn

from ..ops.pyramid import pool_pyramid
from .hooks import is_hooked, runs_as_written
from .layers import PyramidConv2d, WinogradConv2d


def split_convolution(module: ConvModule, align_corners: bool) -> None:
    """Let the convolution of ``module`` take a pyramid in place of its concatenation."""
    if PyramidConv2d.can_replace(module.conv):
        module.conv = PyramidConv2d.from_conv(module.conv)
        module.conv.align_corners = align_corners


def speed_up_convolutions(head: BaseDecodeHead) -> None:
    """Compute the plain convolutions of ``head`` by :func:`.conv2d_same`."""
    for module in list(head.modules()):
        if isinstance(module, ConvModule) and WinogradConv2d.can_replace(module.conv):
            module.conv = WinogradConv2d.from_conv(module.conv)
    if WinogradConv2d.can_replace(head.conv_seg):
        head.conv_seg = WinogradConv2d.from_conv(head.conv_seg)


def takes_pyramid(module: nn.Module) -> bool:
    """Whether ``module`` is as :func:`split_convolution` made it, and nobody looks at its input."""
    return (
        runs_as_written(module, ConvModule)
        and isinstance(module.conv, PyramidConv2d)
        and not is_hooked(module.conv)
    )


def pools_squares(pyramid: nn.Module) -> bool:
    """Whether all that mmseg's ``PPM`` runs are pools to b x b bins and whatever takes these."""
    return (
        isinstance(pyramid, PPM)
        and runs_as_written(pyramid, PPM)
        and all(map(_is_square_level, pyramid))
    )


def _is_square_level(level: nn.Module) -> bool:
    return (
        isinstance(level, nn.Sequential)
        and len(level) == 2
        and runs_as_written(level, nn.Sequential)
        and runs_as_written(level[0], nn.AdaptiveAvgPool2d)
        and isinstance(level[0].output_size, int)
    )


def pooled_levels(pyramid: PPM, x: Tensor) -> tuple[Tensor, ...]:
    """x, (N, C, H, W), and its levels of b bins, (N, channels, b, b)."""
    pooled = pool_pyramid(x, [pool.output_size for pool, _ in pyramid])
    return (x, *(conv(bins) for (_, conv), bins in zip(pyramid, pooled)))
