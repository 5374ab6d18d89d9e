"""PSPNet decode heads, computed the fast way."""

from .psp_head import FactorizedPSPHead

__all__ = ['FactorizedPSPHead']
