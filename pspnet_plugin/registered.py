"""What importing ``pspnet_plugin`` repairs and registers, and the names that it then has."""

import importlib.util

from . import compat
from .errors import ImageError, PredictionError, PspnetPluginError
from .utils.config_files import config_path

compat.apply()

from .finite_loss import StopAtNonFiniteLossHook  # noqa: E402
from .freezing import L2SPHook, LayerFreezeHook  # noqa: E402
from .pretrained import (  # noqa: E402
    PretrainedBackbone,
    PretrainedBackboneHook,
    load_pretrained,
)
from .speed import ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook  # noqa: E402

__all__: list[str] = [
    'ChannelsLastHook',
    'FoldBatchNormHook',
    'ImageError',
    'KeepMemoryHook',
    'L2SPHook',
    'LayerFreezeHook',
    'PredictionError',
    'PretrainedBackbone',
    'PretrainedBackboneHook',
    'PspnetPluginError',
    'StopAtNonFiniteLossHook',
    'config_path',
    'load_pretrained',
]

if importlib.util.find_spec('mmseg') is not None:
    from .heads import (
        FactorizedFCNHead,
        FactorizedOCRHead,
        FactorizedPSPHead,
        FactorizedSegformerHead,
        FactorizedUPerHead,
        PlainPSPHead,
    )
    from .segmentors import LabelMapEncoderDecoder, LogitsTTAModel
    from .transforms import CheckLabels, LoadRaster
    from .validation import ClassIoUMetric, ValidationLossHook

    __all__ += [
        'CheckLabels',
        'ClassIoUMetric',
        'FactorizedFCNHead',
        'FactorizedOCRHead',
        'FactorizedPSPHead',
        'FactorizedSegformerHead',
        'FactorizedUPerHead',
        'LabelMapEncoderDecoder',
        'LoadRaster',
        'LogitsTTAModel',
        'PlainPSPHead',
        'ValidationLossHook',
    ]
