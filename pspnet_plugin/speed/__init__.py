"""The same network executed faster: memory format, memory reuse, folding for prediction."""

from .hooks import ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook

__all__ = ['ChannelsLastHook', 'FoldBatchNormHook', 'KeepMemoryHook']
