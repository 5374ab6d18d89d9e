"""From a config and a checkpoint to a segmentor that is ready to predict."""

from .segmentor import init_model

__all__ = ['init_model']
