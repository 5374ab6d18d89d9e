"""What mmengine writes into a checkpoint, and torch's reader refuses.

Wrong: mmengine saves numpy arrays and ``HistoryBuffer`` objects in its checkpoints, and torch reads
a file without running code from it only when everything in it is on an allow-list, where they are
not.

Changed: while :func:`reading_checkpoints` holds, and no longer, stand-ins for these names are on
the allow-list. With ``numpy.dtype`` and ``numpy.ndarray`` themselves a crafted file makes arrays
that reach beyond their memory; the stand-ins make arrays of numbers and strings whose size fits
their data, and nothing else. Before torch 2.6, whose list takes none, :mod:`.old_torch` reads.

Unnecessary as soon as mmengine saves only what torch reads by default.

A restricted ``pickle_module`` would leave to us what ``weights_only=True`` guards: TorchScript, tar
files, indices of sparse tensors, and what an opcode may do to which object.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import pickle
import re
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch.optim.lr_scheduler import OneCycleLR

from . import old_torch

# Booleans, integers, floats and strings; the size stands behind the letter.
_PLAIN_DTYPE = re.compile(r'b1|[iu][1248]|f[248]|U\d{1,6}')

_lock = threading.Lock()
_readers = 0
_on_the_list = contextlib.ExitStack()


def load(file: Any, map_location: Any = None, *, data_only: bool = True, **options: Any) -> Any:
    """``torch.load`` for checkpoints, on every version of torch that the plugin supports.

    Args:
        file, map_location, options: as for ``torch.load``.
        data_only: run no code from the file, and read what mmengine writes; False is torch's
            ``weights_only=False``.

    Raises:
        UnpicklingError: the file holds more than data.
    """
    options['map_location'] = map_location
    if old_torch.version() < (2, 1):
        options.pop('mmap', None)
    elif options.get('mmap'):
        file = str(file)  # torch 2.1 maps files that are named by a string
    if not data_only:
        return torch.load(file, weights_only=False, **options)
    if old_torch.installed():
        return old_torch.load(file, {**_by_the_user(), **_stand_ins()}, **options)
    with reading_checkpoints():
        return torch.load(file, weights_only=True, **options)


@contextlib.contextmanager
def reading_checkpoints() -> Iterator[None]:
    """Within this context ``torch.load`` with ``weights_only=True`` reads what mmengine writes.

    Before torch 2.6 only :func:`load` does. torch's allow-list is one for the whole process: the
    stand-ins go on it with the first thread that reads and off it with the last.
    """
    global _readers
    if old_torch.installed():
        yield
        return
    with _lock:
        if not _readers:
            added: list[Any] = [(answer, name) for name, answer in _stand_ins().items()]
            _on_the_list.enter_context(torch.serialization.safe_globals(added))
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if not _readers:
                _on_the_list.close()


def _stand_ins() -> dict[str, Any]:
    """What answers for a name in a checkpoint.

    A user who has allowed a name is obeyed. The stand-ins for numpy understand only each other, so
    none of them is added then.
    """
    numpy: dict[str, Any] = {'numpy.dtype': PlainDtype, 'numpy.ndarray': PlainArray}
    for package in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1 and 2
        numpy |= {f'{package}.scalar': _scalar, f'{package}._reconstruct': _empty_array}
    groups: list[dict[str, Any]] = [
        numpy,
        {'mmengine.logging.history_buffer.HistoryBuffer': PlainHistory},
        {f'{OneCycleParamScheduler.__module__}.OneCycleParamScheduler': PlainOneCycle},
        {'torch.optim.lr_scheduler.OneCycleLR': PlainOneCycleLR},
        {'builtins.getattr': _statistic},
        {'builtins.bytes': _no_bytes},
        # Training scripts such as DINO's store their command line; a Namespace only holds values.
        {'argparse.Namespace': argparse.Namespace},
    ]
    by_the_user = _by_the_user().keys()
    added = [group for group in groups if by_the_user.isdisjoint(group)]
    return {name: answer for group in added for name, answer in group.items()}


def _by_the_user() -> dict[str, Any]:
    """The same for what stands on torch's list, which there is since 2.4."""
    entries: list[Any] = getattr(torch.serialization, 'get_safe_globals', list)()
    pairs = [
        entry if isinstance(entry, tuple) else (entry, f'{entry.__module__}.{entry.__qualname__}')
        for entry in entries
    ]
    return {name: answer for answer, name in pairs}


# --- stand-ins ----------------------------------------------------------------------------------


class PlainDtype:
    """Stands for ``numpy.dtype`` in a checkpoint: a dtype without fields, subarrays and objects."""

    def __init__(self, code: str, align: bool = False, copy: bool = True):
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise _refused(f'numpy.dtype({code!r})')
        self._dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        # Version, byte order, subarray, names, fields, size, alignment, flags.
        byte_order = state[1]
        if byte_order not in ('<', '>', '=', '|') or any(state[2:5]):
            raise _refused(f'numpy.dtype with the state {state!r}')
        self._dtype = self._dtype.newbyteorder(byte_order)

    def numpy(self) -> np.dtype:
        return self._dtype


class PlainArray(np.ndarray):
    """Stands for ``numpy.ndarray`` in a checkpoint; saved again, it is a plain one."""

    def __new__(cls, *arguments: Any) -> PlainArray:
        raise _refused('numpy.ndarray called as a function')

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        plain = isinstance(dtype, PlainDtype) and isinstance(data, bytes)
        # Filling an array twice would free memory that others look at.
        if not plain or self.nbytes or math.prod(shape) * dtype.numpy().itemsize != len(data):
            raise _refused('a numpy.ndarray that is no array of numbers or strings')
        checked: Any = (1, shape, dtype.numpy(), bool(fortran), data)
        super().__setstate__(checked)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _empty_array(kind: type, shape: tuple, typecode: bytes) -> np.ndarray:
    """Stands for numpy's ``_reconstruct``; ``PlainArray.__setstate__`` fills what it returns."""
    return np.ndarray.__new__(PlainArray, (0,), np.uint8)


def _scalar(dtype: PlainDtype, data: bytes) -> np.generic:
    """Stands for numpy's ``scalar``."""
    array: Any = _empty_array(np.ndarray, (0,), b'b')
    array.__setstate__((1, (1,), dtype, False, data))
    return array.view(np.ndarray)[0]


class PlainHistory(HistoryBuffer):
    """Stands for ``HistoryBuffer`` in a checkpoint; filled, it is a plain one.

    It leaves out the table of statistics that the file holds: all HistoryBuffers share one.
    """

    def __setstate__(self, state: dict) -> None:
        self.__class__ = HistoryBuffer
        self._set_default_statistics()
        data = {key: value for key, value in state.items() if isinstance(value, (int, np.ndarray))}
        self.__dict__.update(data)


class PlainOneCycle:
    """Stands for ``OneCycleParamScheduler``, of which a checkpoint holds one of two functions."""

    stock = OneCycleParamScheduler


class PlainOneCycleLR:
    """The same for torch's own scheduler, as far as torch 2.1 and before write it."""

    stock = OneCycleLR


def _statistic(owner: Any, name: str) -> Any:
    """Stands for ``getattr``, by which a HistoryBuffer pickles the table of its statistics."""
    is_cycle = owner is PlainOneCycle or owner is PlainOneCycleLR
    if is_cycle and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(owner.stock, name)
    is_history = owner is PlainHistory or owner is HistoryBuffer
    if is_history and isinstance(name, str) and not name.startswith('_'):
        return vars(HistoryBuffer).get(name)
    raise _refused(f'builtins.getattr({getattr(owner, "__name__", owner)}.{name})')


def _no_bytes(*content: Any) -> bytes:
    """Stands for ``bytes``, by whose call without content the data of empty arrays is pickled."""
    if content:
        raise _refused('builtins.bytes with content')
    return b''


def _refused(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f'GLOBAL {what.replace(" ", "_")} is refused')
