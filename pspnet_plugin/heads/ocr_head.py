"""The second stage of OCRNet; the first is an FCN head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import OCRHead
from mmseg.registry import MODELS
from torch import Tensor

from .chunked_loss import ChunkedLossMixin
from .convolutions import Pyramid, speed_up_convolutions, split_convolution, takes_pyramid


@MODELS.register_module()
class FactorizedOCRHead(ChunkedLossMixin, OCRHead):
    """mmseg's ``OCRHead`` with a bottleneck that is applied to each map before it is upsampled.

    Same arguments, parameter names, outputs and gradients as ``OCRHead``; the same initial weights
    from the same seed. The stock arithmetic is used where the bottleneck is no plain convolution or
    has hooks, and with another ``input_transform`` than ``'resize_concat'``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.input_transform == 'resize_concat':
            split_convolution(self.bottleneck)
        # Keys and values are of a few regions, whose memory format stock's convolutions choose; in
        # another one, PyTorch's gradients of their norms may be wrong (docs/compat.md).
        attention = self.object_context_block
        of_regions = [*attention.key_project.modules(), *attention.value_project.modules()]
        kept = {m: m.conv for m in of_regions if isinstance(m, ConvModule)}
        speed_up_convolutions(self)
        for module, conv in kept.items():
            module.conv = conv

    def _transform_inputs(self, inputs: Sequence[Tensor]) -> Tensor | Pyramid:
        """What the bottleneck takes: the maps themselves, or their concatenation."""
        if self.input_transform == 'resize_concat' and takes_pyramid(self.bottleneck):
            return Pyramid(tuple(inputs[i] for i in self.in_index), self.align_corners)
        return super()._transform_inputs(inputs)
