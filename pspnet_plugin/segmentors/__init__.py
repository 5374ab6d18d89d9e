"""Segmentors that predict label maps without full-size logits."""

from .label_map_segmentor import LabelMapEncoderDecoder, LogitsTTAModel

__all__ = ['LabelMapEncoderDecoder', 'LogitsTTAModel']
