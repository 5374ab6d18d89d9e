"""PSPNet for MMSegmentation: exact fast heads, pretrained weights that load, layers that freeze.

Importing the package repairs what the stock stack needs (:mod:`pspnet_plugin.compat`) and registers
everything below, so a config only says ``custom_imports = dict(imports=['pspnet_plugin'])``.
Without mmseg, the hooks and the initializer serve any mmengine project.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from . import compat
from .errors import ImageError, PredictionError, PspnetPluginError
from .utils.config_files import config_path

__version__ = '0.1.0'

compat.apply()

from .finite_loss import StopAtNonFiniteLossHook  # noqa: E402
from .freezing import L2SPHook, LayerFreezeHook  # noqa: E402
from .pretrained import (  # noqa: E402
    PretrainedBackbone,
    PretrainedBackboneHook,
    load_pretrained,
)
from .speed import ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook  # noqa: E402

__all__ = [
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
    '__version__',
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
        'ExportSettings',
        'FactorizedFCNHead',
        'FactorizedOCRHead',
        'FactorizedPSPHead',
        'FactorizedSegformerHead',
        'FactorizedUPerHead',
        'LabelMapEncoderDecoder',
        'LoadRaster',
        'LogitsTTAModel',
        'PlainPSPHead',
        'Prediction',
        'ValidationLossHook',
        'export_model',
        'init_model',
        'predict',
    ]

# What a training run does not need is imported when it is asked for.
LOOKED_UP = {
    'ExportSettings': 'app.export',
    'Prediction': 'app.prediction',
    'export_model': 'app.export',
    'init_model': 'app.models',
    'predict': 'app.prediction',
}
if TYPE_CHECKING:
    from .app.export import ExportSettings, export_model
    from .app.models import init_model
    from .app.prediction import Prediction, predict


def __getattr__(name: str) -> Any:
    if name not in LOOKED_UP:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'.{LOOKED_UP[name]}', __name__), name)
