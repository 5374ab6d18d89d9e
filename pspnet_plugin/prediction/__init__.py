"""From a checkpoint to label maps."""

from .api import predict
from .errors import ImageError, PredictionError
from .model import init_model
from .result import Prediction

__all__ = ['ImageError', 'Prediction', 'PredictionError', 'init_model', 'predict']
