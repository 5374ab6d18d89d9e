"""The PSPNet decode heads: configuration and parameters; the arithmetic is pyramid's."""

from mmseg.models.decode_heads import PSPHead
from mmseg.registry import MODELS


@MODELS.register_module()
class FactorizedPSPHead(PSPHead):
    """mmseg's PSPHead."""
