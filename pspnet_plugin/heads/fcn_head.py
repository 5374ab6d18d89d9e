"""The auxiliary head of PSPNet with the streamed loss."""

from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS

from .loss_mixin import StreamedLossMixin


@MODELS.register_module()
class StreamedFCNHead(StreamedLossMixin, FCNHead):
    """mmseg's ``FCNHead``, same arguments and parameters, whose loss never holds full-size logits."""
