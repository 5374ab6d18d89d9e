"""FCN's decode head, of several maps (HRNet) or as an auxiliary one (PSPNet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads import FCNHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from .chunked_loss import ChunkedLossMixin
from .convolutions import Pyramid, speed_up_convolutions, split_convolution, takes_pyramid
from .modified_modules import has_methods_of, runs_as_written


@MODELS.register_module()
class FactorizedFCNHead(ChunkedLossMixin, FCNHead):
    """mmseg's ``FCNHead`` with a loss that never holds full-size logits.

    Same arguments, parameter names, outputs and gradients; on CPUs wide 3 x 3 convolutions are
    computed as in :class:`FactorizedPSPHead`. With ``input_transform='resize_concat'`` and without
    ``concat_input``, the first convolution is applied to each map before it is upsampled, unless it
    is no plain one or it or ``convs`` has hooks.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self._concatenates_maps_alone() and self.num_convs > 0:
            split_convolution(self.convs[0])
        speed_up_convolutions(self)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the backbone's feature maps to the features to classify, (N, channels, H, W)."""
        if (
            self._concatenates_maps_alone()
            and runs_as_written(self.convs, nn.Sequential)
            and takes_pyramid(self.convs[0])
        ):
            maps = tuple(inputs[i] for i in self.in_index)
            return self.convs(Pyramid(maps, self.align_corners))
        return super()._forward_feature(inputs)

    def _concatenates_maps_alone(self) -> bool:
        return (
            self.input_transform == 'resize_concat'
            and not self.concat_input
            and has_methods_of(BaseDecodeHead, self, ['_transform_inputs'])
        )
