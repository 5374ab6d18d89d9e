"""Which layers train when. Needs torch and mmengine only."""

from .hook import LayerFreezeHook, UnsupportedRunError
from .schedule import ScheduleError
from .selection import SelectionError

__all__ = ['LayerFreezeHook', 'ScheduleError', 'SelectionError', 'UnsupportedRunError']
