"""Decode heads: configuration and parameters; the arithmetic is in ``ops``."""

from .fcn_head import FactorizedFCNHead
from .ocr_head import FactorizedOCRHead
from .psp_head import FactorizedPSPHead, PlainPSPHead
from .segformer_head import FactorizedSegformerHead
from .uper_head import FactorizedUPerHead

__all__ = [
    'FactorizedFCNHead',
    'FactorizedOCRHead',
    'FactorizedPSPHead',
    'FactorizedSegformerHead',
    'FactorizedUPerHead',
    'PlainPSPHead',
]
