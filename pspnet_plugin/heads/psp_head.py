"""The PSPNet decode heads: configuration and parameters; the arithmetic is in ``ops.pyramid``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads import PSPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..ops.pyramid import pool_pyramid
from ..ops.stacked_levels import concatenate_pyramid
from .chunked_loss import ChunkedLossMixin
from .convolutions import (
    Pyramid,
    PyramidConv2d,
    may_take_pyramid,
    split_convolution,
    takes_pyramid,
)
from .ppm import pooled_levels, pools_squares


@MODELS.register_module()
class FactorizedPSPHead(ChunkedLossMixin, PSPHead):
    """mmseg's ``PSPHead`` computed exactly, with half the arithmetic and without the concatenation.

    Same arguments, parameter names, outputs and gradients as ``PSPHead``; the same initial weights
    from the same seed. The stock arithmetic is used where the bottleneck is no plain convolution,
    by ``conv_cfg`` or replaced later, and where a pool, a level or the bottleneck was replaced or
    has hooks, which would see other calls than in stock.

    Args:
        pool_scales: bins per side of each pooling level.
        **kwargs: those of ``BaseDecodeHead``.
    """

    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs: Any) -> None:
        super().__init__(pool_scales=pool_scales, **kwargs)
        if pool_scales and pools_squares(self.psp_modules):
            split_convolution(self.bottleneck)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the backbone's feature maps to the features to classify, (N, channels, H, W)."""
        if not (takes_pyramid(self.bottleneck) and pools_squares(self.psp_modules)):
            return super()._forward_feature(inputs)
        return self.bottleneck(pooled_levels(self.psp_modules, self._transform_inputs(inputs)))


@MODELS.register_module()
class PlainPSPHead(ChunkedLossMixin, BaseDecodeHead):
    """The pyramid as tutorials write it: no norm, no activation, no bottleneck.

    Each level is average-pooled, reduced by a 1 x 1 convolution with bias to
    ``in_channels // len(pool_scales)`` channels, and upsampled; one 1 x 1 convolution classifies
    the concatenation of the backbone's feature map and the levels.

    Args:
        in_channels: of the backbone's feature map.
        pool_scales: bins per side of each pooling level.
        channels: has no effect, nor have ``norm_cfg`` and ``act_cfg``; all three are accepted, so
            that only ``type`` has to change in the config of a ``PSPHead``.
        dropout_ratio: of whole channels, before the last convolution.
        **kwargs: those of ``BaseDecodeHead``.
    """

    def __init__(
        self,
        in_channels: int,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        channels: int | None = None,
        dropout_ratio: float = 0,
        **kwargs: Any,
    ) -> None:
        width = in_channels // len(pool_scales)
        channels = in_channels + len(pool_scales) * width
        super().__init__(in_channels, channels, dropout_ratio=dropout_ratio, **kwargs)
        self.pool_scales = pool_scales
        self.psp_modules = nn.ModuleList(nn.Conv2d(in_channels, width, 1) for _ in pool_scales)
        self.conv_seg: PyramidConv2d = PyramidConv2d.from_conv(self.conv_seg)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The feature map, (N, in_channels, H, W), and its levels of b bins, (N, width, b, b)."""
        x = self._transform_inputs(inputs)
        pooled = pool_pyramid(x, self.pool_scales)
        return (x, *(conv(bins) for conv, bins in zip(self.psp_modules, pooled)))

    def cls_seg(self, feat: Sequence[Tensor]) -> Tensor:
        """Classify each pixel: (N, out_channels, H, W)."""
        conv = self.conv_seg
        splits = isinstance(conv, PyramidConv2d) and may_take_pyramid(conv)
        # Where whole channels are dropped, before upsampling is the same as after it.
        drops_channels = isinstance(self.dropout, (nn.Dropout2d, nn.Identity, type(None)))
        if not (splits and drops_channels):
            x, *levels = feat
            return super().cls_seg(concatenate_pyramid(x, levels, self.align_corners))
        if self.dropout is not None:
            feat = [self.dropout(part) for part in feat]
        return self.conv_seg(Pyramid(tuple(feat), self.align_corners))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the backbone's feature maps to logits, (N, out_channels, H, W)."""
        return self.cls_seg(self._forward_feature(inputs))
