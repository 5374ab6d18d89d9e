"""The auxiliary head of PSPNet with the streamed loss and the faster convolution."""

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS

from .loss_mixin import StreamedLossMixin
from .psp_head import PyramidConv2d


@MODELS.register_module()
class StreamedFCNHead(StreamedLossMixin, FCNHead):
    """mmseg's ``FCNHead`` with a loss that never holds full-size logits.

    Its convolutions are computed as those of :class:`FactorizedPSPHead` are. Same arguments,
    parameters, outputs and numbers.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        for module in list(self.modules()):
            if isinstance(module, ConvModule) and PyramidConv2d.can_replace(module.conv):
                module.conv = PyramidConv2d.from_conv(module.conv)
