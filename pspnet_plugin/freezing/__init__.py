"""Which layers train when: a pure function of the config and the iteration."""

from .hook import LayerFreezeHook, UnsupportedRunError
from .schedule import ScheduleError
from .selection import SelectionError

__all__ = ['LayerFreezeHook', 'ScheduleError', 'SelectionError', 'UnsupportedRunError']
