"""From images to label maps."""

from .predictor import predict
from .results import Prediction

__all__ = ['Prediction', 'predict']
