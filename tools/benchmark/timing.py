"""Time of several steps, measured in turn."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Callable

import torch
from rich.console import Console
from rich.progress import track

from pspnet_plugin.speed.memory import keep_freed_memory

from .allocator import stop_keeping_freed_memory
from .settings import Settings

Step = Callable[[], object]

# A GPU chooses and loads its kernels during the first runs.
WARM_UPS = {'cpu': 1, 'cuda': 3}


def time_alternately(
    steps: dict[str, Step], settings: Settings, keeping: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds of each step in each run, in the order A B C A B C ... after warm-up runs.

    Args:
        keeping: the steps that run with freed memory kept, which is a setting of the process. After
            each switch a step runs once untimed, so that its timed run finds the memory that it
            would find in a process of its own.
    """
    kind = torch.device(settings.device).type
    seconds = {name: [] for name in steps}
    kept = False
    for run in progress(range(WARM_UPS[kind] + settings.runs), f'timing {", ".join(steps)}'):
        for name, step in steps.items():
            if kind == 'cpu' and (name in keeping) != kept:
                kept = not kept
                (keep_freed_memory if kept else stop_keeping_freed_memory)()
                step()
            start = _now(settings.device)
            step()
            end = _now(settings.device)
            if run >= WARM_UPS[kind]:
                seconds[name].append(end - start)
    if kept:
        stop_keeping_freed_memory()
    return seconds


def _now(device: str) -> float:
    """A clock's seconds, once the device has finished its work."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def progress(items: Iterable, description: str) -> Iterable:
    """A progress bar over ``items`` on the standard error stream, gone at the end."""
    return track(items, description, console=Console(stderr=True), transient=True)
