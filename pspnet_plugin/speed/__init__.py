"""The same network executed faster: memory format, and batch norm folded for prediction."""

from .hooks import ChannelsLastHook, FoldBatchNormHook

__all__ = ['ChannelsLastHook', 'FoldBatchNormHook']
