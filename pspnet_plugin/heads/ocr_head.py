"""The second stage of OCRNet; the first is an FCN head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        speed_up_convolutions(self)

    def _transform_inputs(self, inputs: Sequence[Tensor]) -> Tensor | Pyramid:
        """What the bottleneck takes: the maps themselves, or their concatenation."""
        if self.input_transform == 'resize_concat' and takes_pyramid(self.bottleneck):
            return Pyramid(tuple(inputs[i] for i in self.in_index), self.align_corners)
        return super()._transform_inputs(inputs)
