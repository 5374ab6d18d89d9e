"""The auxiliary head of PSPNet with the streamed loss and the faster convolution."""

from __future__ import annotations

from typing import Any

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS

from .layers import WinogradConv2d
from .loss_mixin import StreamedLossMixin


@MODELS.register_module()
class StreamedFCNHead(StreamedLossMixin, FCNHead):
    """mmseg's ``FCNHead`` with a loss that never holds full-size logits.

    Same arguments, parameter names, outputs and gradients; on CPUs wide 3 x 3 convolutions are
    computed as in :class:`FactorizedPSPHead`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for module in list(self.modules()):
            if isinstance(module, ConvModule) and WinogradConv2d.can_replace(module.conv):
                module.conv = WinogradConv2d.from_conv(module.conv)
