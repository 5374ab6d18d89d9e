"""Which layers train when: a pure function of the config and the iteration; and towards what."""

from .hook import LayerFreezeHook, UnsupportedRunError
from .l2sp import L2SPHook
from .schedule import ScheduleError
from .selection import SelectionError

__all__ = ['L2SPHook', 'LayerFreezeHook', 'ScheduleError', 'SelectionError', 'UnsupportedRunError']
