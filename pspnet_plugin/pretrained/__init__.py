"""From a reference such as ``torchvision://resnet50`` to weights in a module, with a report."""

from .errors import PretrainedWeightsError
from .hook import PretrainedBackboneHook
from .initializer import PretrainedBackbone
from .load import load_pretrained
from .report import LoadReport

__all__ = [
    'LoadReport',
    'PretrainedBackbone',
    'PretrainedBackboneHook',
    'PretrainedWeightsError',
    'load_pretrained',
]
