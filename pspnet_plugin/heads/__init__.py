"""PSPNet decode heads, computed the fast way."""

from .fcn_head import StreamedFCNHead
from .psp_head import FactorizedPSPHead, PlainPSPHead
from .segmentor import LabelMapEncoderDecoder, LogitsTTAModel

__all__ = [
    'FactorizedPSPHead',
    'LabelMapEncoderDecoder',
    'LogitsTTAModel',
    'PlainPSPHead',
    'StreamedFCNHead',
]
