"""The auxiliary head of PSPNet with the streamed loss."""

from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS

from .loss_mixin import StreamedLossMixin


@MODELS.register_module()
class StreamedFCNHead(StreamedLossMixin, FCNHead):
    """mmseg's ``FCNHead`` with a loss that never holds full-size logits.

    Same arguments, parameters, outputs and numbers.
    """
