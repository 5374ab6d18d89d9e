"""From images to label maps."""

from .api import predict
from .result import Prediction

__all__ = ['Prediction', 'predict']
