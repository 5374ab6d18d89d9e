"""Time by alternating runs, peak memory, and what autograd keeps for the backward pass."""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import resource
import sys
import time
import weakref
from collections.abc import Collection, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Callable

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pspnet_plugin import PspnetPluginError
from pspnet_plugin.speed.memory import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory

from .settings import Settings

Step = Callable[[], object]

# A GPU picks and loads its kernels during the first runs.
WARM_UPS = {'cpu': 1, 'cuda': 3}
# Imported once by the server that the children are forked from, so that they start in no time.
PRELOAD = ['pspnet_plugin', 'mmseg.apis']

_memory_is_kept = False


class MemoryMeasurementError(PspnetPluginError):
    """The process that was to measure the peak of memory did not live to report it."""


def time_alternately(
    steps: dict[str, Step], settings: Settings, keeping: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds of each step in each run, in the order A B C A B C … after warm-up runs.

    Args:
        keeping: the steps that run with freed memory kept, which is for a whole process.
    """
    warm_ups = WARM_UPS[torch.device(settings.device).type]
    on_cpu = torch.device(settings.device).type == 'cpu'
    seconds = {name: [] for name in steps}
    for number in _progress(range(warm_ups + settings.runs), f'timing {", ".join(steps)}'):
        for name, step in steps.items():
            if on_cpu and _switch_kept_memory(name in keeping):
                step()  # What it finds in memory is now what it finds in every run of its own.
            _synchronize(settings.device)
            start = time.perf_counter()
            step()
            _synchronize(settings.device)
            if number >= warm_ups:
                seconds[name].append(time.perf_counter() - start)
    _switch_kept_memory(False)
    return seconds


def _switch_kept_memory(keep: bool) -> bool:
    """Keep freed memory from now on, or do as a process of stock MMSegmentation does.

    Returns:
        Whether that is a change.
    """
    global _memory_is_kept
    if keep == _memory_is_kept:
        return False
    if keep:
        _memory_is_kept = keep_freed_memory()
    else:
        # Where glibc's own rules have arrived after the first blocks of more than 32 MiB.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 65536)
        mallopt(M_TRIM_THRESHOLD, 64 << 20)
        _return_free_memory()
        _memory_is_kept = False
    return keep == _memory_is_kept


def _synchronize(device: str) -> None:
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def _progress(steps, description: str):
    return track(steps, description, console=Console(stderr=True), transient=True)


# --- peak memory --------------------------------------------------------------------------------


def peak_memory(
    preparations: dict[str, Callable[[], Step]], settings: Settings, keeping: Collection[str] = ()
) -> dict[str, list[float]]:
    """Bytes at the peak of each step above what was held before it, measured once.

    On a GPU it is the allocator's own counter. On a CPU it is the peak resident set of a fresh
    child process, which prepares the step and runs it, right to about a megabyte; there a
    preparation has to be a module's function, or a partial of one, that can be pickled.

    Args:
        keeping: the steps that run with freed memory kept.

    Raises:
        MemoryMeasurementError: the child process died.
    """
    on_gpu = torch.device(settings.device).type == 'cuda'
    peaks = {}
    for name, prepare in _progress(preparations.items(), f'memory of {", ".join(preparations)}'):
        if on_gpu:
            peaks[name] = [_peak_on_gpu(prepare, settings)]
        else:
            peaks[name] = [_peak_in_child(prepare, settings, name in keeping)]
    return peaks


def _peak_on_gpu(prepare: Callable[[], Step], settings: Settings) -> float:
    step = prepare()
    step()
    torch.cuda.synchronize(settings.device)
    before = torch.cuda.memory_allocated(settings.device)
    torch.cuda.reset_peak_memory_stats(settings.device)
    step()
    torch.cuda.synchronize(settings.device)
    return torch.cuda.max_memory_allocated(settings.device) - before


def _peak_in_child(prepare: Callable[[], Step], settings: Settings, keep: bool) -> float:
    # Forking this process itself would copy OpenMP's state without its threads, and hang.
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOAD)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_peak, args=(sender, prepare, settings.threads, keep))
    child.start()
    sender.close()
    try:
        peak = receiver.recv()
    except EOFError:
        raise MemoryMeasurementError(
            'The child process that measures the peak of memory died, most likely for want of '
            'memory: choose a smaller --batch, --crop, --sizes or --channels.'
        ) from None
    finally:
        child.join()
    if isinstance(peak, Exception):
        raise peak
    return peak


def _send_peak(sender: Connection, prepare: Callable[[], Step], threads: int, keep: bool) -> None:
    try:
        if keep:
            keep_freed_memory()
        peak = _peak_in_this_process(prepare, threads)
    except Exception as error:  # To be raised where the benchmark was started.
        peak = error
    sender.send(peak)


def _peak_in_this_process(prepare: Callable[[], Step], threads: int) -> float:
    torch.set_num_threads(threads)
    step = prepare()
    if _reset_peak():
        # What is allocated once and kept by libraries is no part of a step.
        step()
        _return_free_memory()
        _reset_peak()
        before = _status('VmRSS')
        step()
        return _status('VmHWM') - before
    # The peak of the whole life cannot be reset, so the first run has to be the one that counts.
    before = _highest_ever()
    step()
    return _highest_ever() - before


def _reset_peak() -> bool:
    """Make Linux forget the peak of this process; False where that cannot be done."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
        return _status('VmHWM') > 0
    except (OSError, LookupError):
        return False


def _status(field: str) -> int:
    found = re.search(rf'{field}:\s*(\d+) kB', Path('/proc/self/status').read_text())
    if found is None:
        raise LookupError(field)
    return int(found.group(1)) * 1024


def _return_free_memory() -> None:
    """Give the heap's free pages back, so that what reuses them is counted again."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)


def _highest_ever() -> int:
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# --- memory kept for the backward pass ----------------------------------------------------------


class _Kept:
    """What autograd holds in place of a saved tensor; it dies with the graph."""

    def __init__(self, tensor: Tensor):
        # Detached, because an operation's own result would keep its graph alive for ever.
        self.tensor = tensor.detach()


def kept_for_backward(forward: Callable[[], object], except_: Iterable[Tensor] = ()) -> int:
    """Bytes of the storages that autograd keeps after ``forward``, each counted once.

    Args:
        forward: runs a forward pass and returns what holds its graph.
        except_: tensors whose storages do not count.
    """
    kept = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        holder = _Kept(tensor)
        kept.add(holder)
        return holder

    with saved_tensors_hooks(pack, lambda holder: holder.tensor):
        output = forward()
    own = {tensor.untyped_storage().data_ptr() for tensor in except_}
    storages = [holder.tensor.untyped_storage() for holder in kept]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del output
    return sum(size for pointer, size in sizes.items() if pointer not in own)


def state_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, which the module holds with or without a backward pass."""
    return [*module.parameters(), *module.buffers()]
