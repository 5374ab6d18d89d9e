"""Peak memory of a step, and what autograd keeps for the backward pass."""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
import weakref
from collections.abc import Collection, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pspnet_plugin import PspnetPluginError
from pspnet_plugin.speed.memory import keep_freed_memory

from .allocator import return_free_pages
from .settings import Settings
from .timing import Step, progress

# Imported once by the server that the child processes are forked from, so that they start at once.
PRELOAD = ['pspnet_plugin', 'mmseg.apis']


class MemoryMeasurementError(PspnetPluginError):
    """The child process that measures the peak of memory died before it could report it."""


# --- peak memory --------------------------------------------------------------------------------


def peak_memory(
    preparations: dict[str, Callable[[], Step]], settings: Settings, keeping: Collection[str] = ()
) -> dict[str, list[float]]:
    """Bytes at the peak of each step above what was held before it, measured once.

    On a GPU it is the allocator's own counter. On a CPU it is the peak resident set of a fresh
    child process, which prepares the step and runs it, accurate to about a megabyte; for the child,
    a preparation must be picklable: a function of a module, or a partial of one.

    Args:
        keeping: the steps that run with freed memory kept.

    Raises:
        MemoryMeasurementError: the child process died.
    """
    on_gpu = torch.device(settings.device).type == 'cuda'
    peaks = {}
    for name, prepare in progress(preparations.items(), f'memory of {", ".join(preparations)}'):
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
    # A fork of this process would have OpenMP's state but none of its threads, and hang.
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
            'The child process that measures the peak of memory died, most likely because memory '
            'ran out: choose a smaller --batch, --crop, --sizes or --channels.'
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
    except Exception as error:  # The parent process raises it.
        peak = error
    sender.send(peak)


def _peak_in_this_process(prepare: Callable[[], Step], threads: int) -> float:
    torch.set_num_threads(threads)
    step = prepare()
    if _reset_peak():
        # The first run is not measured: libraries allocate buffers in it that they keep.
        step()
        return_free_pages()
        _reset_peak()
        before = _status('VmRSS')
        step()
        return _status('VmHWM') - before
    # The highest peak of the process so far cannot be reset, so the first run is measured.
    before = _highest_ever()
    step()
    return _highest_ever() - before


def _reset_peak() -> bool:
    """Make Linux forget the peak of this process; False where that cannot be done."""
    try:
        Path('/proc/self/clear_refs').write_text('5')  # 5: reset the peak, see proc(5)
        return _status('VmHWM') > 0
    except (OSError, LookupError):
        return False


def _status(field: str) -> int:
    """A size in bytes from Linux's description of this process."""
    found = re.search(rf'{field}:\s*(\d+) kB', Path('/proc/self/status').read_text())
    if found is None:
        raise LookupError(field)
    return int(found.group(1)) * 1024


def _highest_ever() -> int:
    """The peak resident set of this process since its start, in bytes."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# --- memory kept for the backward pass ----------------------------------------------------------


class _Kept:
    """What autograd holds in place of a saved tensor; it is freed with the graph."""

    def __init__(self, tensor: Tensor):
        # Detached: a saved result would otherwise hold the graph that holds it.
        self.tensor = tensor.detach()


def kept_for_backward(forward: Callable[[], object], exclude: Iterable[Tensor] = ()) -> int:
    """Bytes of the storages that autograd keeps after ``forward``, each counted once.

    Args:
        forward: runs a forward pass and returns a result that holds its graph.
        exclude: tensors whose storages do not count.
    """
    kept = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        holder = _Kept(tensor)
        kept.add(holder)
        return holder

    with saved_tensors_hooks(pack, lambda holder: holder.tensor):
        output = forward()
    own = {tensor.untyped_storage().data_ptr() for tensor in exclude}
    storages = [holder.tensor.untyped_storage() for holder in kept]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del output
    return sum(size for pointer, size in sizes.items() if pointer not in own)


def state_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers, which the module holds with or without a backward pass."""
    return [*module.parameters(), *module.buffers()]
