"""PSPNet for MMSegmentation: exact fast heads, pretrained weights that load, layers that freeze.

Importing the package repairs what the stock stack needs (:mod:`pspnet_plugin.compat`) and registers
everything below, so a config only says ``custom_imports = dict(imports=['pspnet_plugin'])``.
Without mmseg, the hooks and the initializer serve any mmengine project.
"""

import importlib.util

from . import compat
from .compat.config_scope import config_path
from .errors import PspnetPluginError

__version__ = '0.1.0'

compat.apply()

from .freezing import LayerFreezeHook  # noqa: E402
from .pretrained import (  # noqa: E402
    PretrainedBackbone,
    PretrainedBackboneHook,
    load_pretrained,
)
from .runs.finite_loss import StopAtNonFiniteLossHook  # noqa: E402
from .speed import ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook  # noqa: E402

__all__ = [
    'ChannelsLastHook',
    'FoldBatchNormHook',
    'KeepMemoryHook',
    'LayerFreezeHook',
    'PretrainedBackbone',
    'PretrainedBackboneHook',
    'PspnetPluginError',
    'StopAtNonFiniteLossHook',
    '__version__',
    'config_path',
    'load_pretrained',
]

if importlib.util.find_spec('mmseg') is not None:
    from .datasets import CheckLabels, LoadRaster
    from .heads import (
        FactorizedFCNHead,
        FactorizedOCRHead,
        FactorizedPSPHead,
        FactorizedSegformerHead,
        FactorizedUPerHead,
        PlainPSPHead,
        StreamedFCNHead,
    )
    from .prediction import ImageError, Prediction, PredictionError, init_model, predict
    from .segmentors import LabelMapEncoderDecoder, LogitsTTAModel

    __all__ += [
        'CheckLabels',
        'FactorizedFCNHead',
        'FactorizedOCRHead',
        'FactorizedPSPHead',
        'FactorizedSegformerHead',
        'FactorizedUPerHead',
        'ImageError',
        'LabelMapEncoderDecoder',
        'LoadRaster',
        'LogitsTTAModel',
        'PlainPSPHead',
        'Prediction',
        'PredictionError',
        'StreamedFCNHead',
        'init_model',
        'predict',
    ]
