"""PSPNet decode heads: configuration and parameters; the arithmetic is in ``ops``."""

from .fcn_head import StreamedFCNHead
from .psp_head import FactorizedPSPHead, PlainPSPHead

__all__ = ['FactorizedPSPHead', 'PlainPSPHead', 'StreamedFCNHead']
