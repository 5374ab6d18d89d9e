"""Which of the plugin's classes computes what which of mmseg's computes."""

from __future__ import annotations

import mmseg.models
from mmseg.registry import MODELS

from .heads import (
    FactorizedFCNHead,
    FactorizedOCRHead,
    FactorizedPSPHead,
    FactorizedSegformerHead,
    FactorizedUPerHead,
)
from .segmentors import LabelMapEncoderDecoder, LogitsTTAModel


class AcceleratedEncoderDecoder(LabelMapEncoderDecoder):
    """Leaves out the full-size logits unless ``test_cfg`` asks for them."""

    keep_seg_logits = False


# By the name of mmseg's class.
REPLACEMENTS = {
    'PSPHead': FactorizedPSPHead,
    'FCNHead': FactorizedFCNHead,
    'UPerHead': FactorizedUPerHead,
    'SegformerHead': FactorizedSegformerHead,
    'OCRHead': FactorizedOCRHead,
    'EncoderDecoder': AcceleratedEncoderDecoder,
    'SegTTAModel': LogitsTTAModel,
}


def means_stock(name: str) -> bool:
    """Whether a name in a config means mmseg's class, and not one that a user registered by it."""
    return name in REPLACEMENTS and MODELS.get(name) is getattr(mmseg.models, name)
