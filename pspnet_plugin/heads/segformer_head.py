"""SegFormer's decode head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads import SegformerHead
from mmseg.registry import MODELS
from torch import Tensor

from .chunked_loss import ChunkedLossMixin
from .convolutions import Pyramid, speed_up_convolutions, split_convolution, takes_pyramid


@MODELS.register_module()
class FactorizedSegformerHead(ChunkedLossMixin, SegformerHead):
    """mmseg's ``SegformerHead`` computed exactly, each map fused at its own resolution.

    Same arguments, parameter names, outputs and gradients as ``SegformerHead``; the same initial
    weights from the same seed. The stock arithmetic is used where the fusion is no plain
    convolution or has hooks, and with another ``interpolate_mode`` than ``'bilinear'``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        split_convolution(self.fusion_conv)
        speed_up_convolutions(self)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the backbone's feature maps to logits, (N, out_channels, H, W)."""
        if self.interpolate_mode != 'bilinear' or not takes_pyramid(self.fusion_conv):
            return super().forward(inputs)
        maps = (conv(x) for conv, x in zip(self.convs, self._transform_inputs(inputs)))
        return self.cls_seg(self.fusion_conv(Pyramid(tuple(maps), self.align_corners)))
