"""Which layers train when. Needs torch and mmengine only."""

from .hook import LayerFreezeHook, UnsupportedRunError
from .optimizer import remember_constructors
from .schedule import ScheduleError
from .selection import SelectionError

remember_constructors()

__all__ = ['LayerFreezeHook', 'ScheduleError', 'SelectionError', 'UnsupportedRunError']
