"""mmengine's own checkpoints: what may stand in them, and why one is refused.

torch reads a checkpoint without running code from it, and calls only what is on an allow-list.
mmengine writes numpy arrays and HistoryBuffers, which are not on it. The real classes have no place
there either: a crafted file can use ``numpy.dtype`` and ``numpy.ndarray`` to make arrays that reach
beyond their memory. So narrow stand-ins answer for their names; they make arrays of numbers and
strings whose size fits their data, and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..errors import PspnetPluginError

# Booleans, integers, floats and unicode strings; the size stands behind the letter.
_PLAIN_DTYPE = re.compile(r'b1|[iu][1248]|f[248]|U\d{1,6}')
# What torch takes for a yes in its environment variables.
TORCH_TRUE = ('1', 'y', 'yes', 'true')
_READING = threading.RLock()


class CheckpointError(PspnetPluginError):
    """A checkpoint cannot be read: it is broken, or it holds more than data."""


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read what mmengine writes, in every part of this process."""
    HistoryBuffer.__setstate__ = _restore_history
    allowed = [
        HistoryBuffer,
        (PlainDtype, 'numpy.dtype'),
        (PlainArray, 'numpy.ndarray'),
        (_statistic, 'builtins.getattr'),
    ]
    for package in ('numpy.core.multiarray', 'numpy._core.multiarray'):  # numpy 1 and 2
        allowed += [
            (_scalar, f'{package}.scalar'),
            (_empty_array, f'{package}._reconstruct'),
        ]
    torch.serialization.add_safe_globals(allowed)


@contextlib.contextmanager
def reading_checkpoints() -> Iterator[None]:
    """Let ``torch.load`` read what mmengine writes while this is open, in one thread at a time."""
    with _READING:
        allow_mmengine_checkpoints()
        yield


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

    def __new__(cls, *arguments):
        raise _refused('numpy.ndarray called as a function')

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        plain = isinstance(dtype, PlainDtype) and isinstance(data, bytes)
        # Filling an array twice would free memory that others look at.
        if not plain or self.nbytes or math.prod(shape) * dtype.numpy().itemsize != len(data):
            raise _refused('a numpy.ndarray that is no array of numbers or strings')
        super().__setstate__((1, shape, dtype.numpy(), bool(fortran), data))

    def __reduce__(self):
        return self.view(np.ndarray).__reduce__()

    def __reduce_ex__(self, protocol):
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _empty_array(kind: type, shape: tuple, typecode: bytes) -> np.ndarray:
    """Stands for numpy's ``_reconstruct``; ``PlainArray.__setstate__`` fills what it returns."""
    return np.ndarray.__new__(PlainArray, (0,), np.uint8)


def _scalar(dtype: PlainDtype, data: bytes) -> np.generic:
    """Stands for numpy's ``scalar``."""
    array = _empty_array(np.ndarray, (0,), b'b')
    array.__setstate__((1, (1,), dtype, False, data))
    return array.view(np.ndarray)[0]


def _statistic(owner, name: str) -> str:
    """Stands for ``getattr``: a HistoryBuffer pickles the table of its statistics by it.

    The name is returned, nothing is looked up: :func:`_restore_history` leaves the table as it is.
    """
    if owner is HistoryBuffer and isinstance(name, str) and not name.startswith('_'):
        return name
    raise _refused(f'builtins.getattr({getattr(owner, "__name__", owner)}.{name})')


def _restore_history(self: HistoryBuffer, state: dict) -> None:
    """``HistoryBuffer.__setstate__`` without the table of statistics, which all of them share."""
    self._set_default_statistics()
    data = {key: value for key, value in state.items() if isinstance(value, (int, np.ndarray))}
    self.__dict__.update(data)


def _refused(what: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f'GLOBAL {what.replace(" ", "_")} is refused')


# --- what a refusal means -----------------------------------------------------------------------


def refused_name(error: Exception) -> str | None:
    """The function or class that torch refused to call, None where the error says no such thing."""
    pattern = r"GLOBAL (\S+)|[Uu]nsupported class (\S+)|but got <class '(\S+?)'>"
    found = re.search(pattern, str(error))
    return next(filter(None, found.groups())) if found else None


def is_cut(path: Path) -> bool:
    """Whether a file on this machine is visibly no whole checkpoint of torch."""
    if not path.is_file():
        return False
    with open(path, 'rb') as file:
        start = file.read(4)
    if start == b'PK\x03\x04':
        return not zipfile.is_zipfile(path)
    return not start.startswith(b'\x80')  # what torch < 1.6 wrote


def explain_load_error(filename: str, error: Exception) -> str | None:
    """What is wrong with a checkpoint that torch refused, or None where the reason is elsewhere."""
    path = Path(filename)
    if isinstance(error, PermissionError):
        return None
    if is_cut(path) or isinstance(error, EOFError) or 'truncated' in str(error):
        return f'The checkpoint {filename} is broken or incomplete. {_way_out(path)}'
    if not isinstance(error, pickle.UnpicklingError):
        return None
    name = refused_name(error)
    if name:
        return (
            f'The checkpoint {filename} holds {name}, which is not data: loading it can run code. '
            'If you trust whoever made the file, allow it by torch.serialization.add_safe_globals '
            'in a module that your config imports; otherwise save only the state_dict again.'
        )
    reason = str(error).strip().splitlines()[0]
    return f'The checkpoint {filename} is not one that torch.save wrote: {reason}'


def _way_out(path: Path) -> str:
    earlier = last_whole_checkpoint_before(path)
    if earlier is None:
        return 'No whole checkpoint lies beside it: start again, or fetch the file again.'
    return (
        f'The last whole checkpoint before it is {earlier}: resume with '
        f'--resume --cfg-options load_from={earlier}'
    )


def last_whole_checkpoint_before(broken: Path) -> Path | None:
    """The newest whole ``.pth`` file beside ``broken`` that is not newer than it, if any."""
    if not broken.is_file():
        return None
    written = broken.stat().st_mtime
    others = [path for path in broken.parent.glob('*.pth') if path != broken]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        if path.stat().st_mtime <= written and zipfile.is_zipfile(path):
            return path
    return None


# --- mmengine's loaders -------------------------------------------------------------------------


def read_checkpoints_safely() -> None:
    """Make every loader of mmengine refuse code in a checkpoint, and say in one line why.

    All of them stand behind one door: paths, ``http://``, ``torchvision://``, ``open-mmlab://`` and
    the rest, for the test tool, ``--resume``, ``load_from`` and ``Pretrained``.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    read = CheckpointLoader.load_checkpoint.__func__
    if hasattr(read, 'reads_safely'):
        return

    @functools.wraps(read)
    def load_checkpoint(cls, filename, *args, **kwargs):
        try:
            with _without_code():
                return read(cls, filename, *args, **kwargs)
        except Exception as error:  # torch reports a broken file in a dozen ways
            message = explain_load_error(str(filename), error)
            if message is None:
                raise
            raise CheckpointError(message) from error

    load_checkpoint.reads_safely = True
    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


@contextlib.contextmanager
def _without_code() -> Iterator[None]:
    """Let ``torch.load`` read nothing but data, whatever its caller asks for.

    mmengine's loaders for the web ask for ``weights_only=False``, by way of torch.hub.
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD stays the user's word that all files may run code.
    """
    before = os.environ.get('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '').lower() not in TORCH_TRUE:
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    try:
        yield
    finally:
        os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)
        if before is not None:
            os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = before
