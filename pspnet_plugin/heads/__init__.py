"""PSPNet decode heads, computed the fast way."""

from .fcn_head import StreamedFCNHead
from .psp_head import FactorizedPSPHead
from .segmentor import LabelMapEncoderDecoder, LogitsTTAModel

__all__ = [
    'FactorizedPSPHead',
    'LabelMapEncoderDecoder',
    'LogitsTTAModel',
    'StreamedFCNHead',
]
