"""From a checkpoint to label maps."""

from .errors import ImageError, PredictionError
from .model import init_model
from .predictor import predict
from .result import Prediction

__all__ = ['ImageError', 'Prediction', 'PredictionError', 'init_model', 'predict']
