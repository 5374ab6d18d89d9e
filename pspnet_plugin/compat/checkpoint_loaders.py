"""mmengine's loaders of checkpoints read data only, and say in one line why a file is refused.

Wrong: mmengine's loaders for the web let a checkpoint run any code, those of its forks try that
after a refusal, and a file that torch refuses or that is cut ends in a traceback from within torch.

Changed, for as long as the process runs, all in ``mmengine.runner.checkpoint``: its ``load_url``
and the ``load`` of its ``torch`` always ask for data only; ``CheckpointLoader.load_checkpoint``
explains errors and reads what mmengine itself wrote (:mod:`.checkpoints`). Every loader stands
behind it: paths, ``http://``, ``torchvision://``, ``open-mmlab://`` and the rest, for the test
tool, ``--resume``, ``load_from`` and ``Pretrained``. TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD stays the
user's word that all files may run code. ``torch.load`` itself is as it was.

Unnecessary as soon as mmengine reads what it writes with ``weights_only=True`` everywhere.
"""

from __future__ import annotations

import functools
import os
import pickle
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint

from ..errors import PspnetPluginError
from . import checkpoints, old_torch
from .checkpoints import reading_checkpoints, refused_name


class CheckpointError(PspnetPluginError):
    """A checkpoint cannot be read: it is broken, or it holds more than data."""


@functools.cache  # twice is the same as once
def patch() -> None:
    """Let mmengine's loaders read data only and explain their errors."""
    loader = mmengine_checkpoint.CheckpointLoader
    read, load_url = loader.load_checkpoint.__func__, mmengine_checkpoint.load_url

    @functools.wraps(read)
    def load_checkpoint(cls, filename, *args, **kwargs):
        try:
            with reading_checkpoints():
                return read(cls, filename, *args, **kwargs)
        except Exception as error:  # torch reports a broken file in a dozen ways
            message = explain_load_error(str(filename), error)
            if message is None:
                raise
            raise CheckpointError(message) from error

    mmengine_checkpoint.torch = _TorchThatLoadsData('torch')
    mmengine_checkpoint.load_url = _loading_data(load_url)
    loader.load_checkpoint = classmethod(load_checkpoint)


class _TorchThatLoadsData(types.ModuleType):
    """torch as ``mmengine.runner.checkpoint`` sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(*args, weights_only=None, **kwargs):
        return checkpoints.load(*args, data_only=_data_only(), **kwargs)


def _loading_data(load_url: Callable) -> Callable:
    """``torch.hub.load_state_dict_from_url`` that asks ``torch.load`` for data only."""
    if old_torch.installed():  # cannot be asked: take copies of torch.hub's functions
        seen = {**load_url.__globals__, 'torch': _TorchThatLoadsData('torch')}
        for name, value in list(seen.items()):
            if isinstance(value, types.FunctionType) and value.__globals__ is load_url.__globals__:
                seen[name] = types.FunctionType(value.__code__, seen, name, value.__defaults__)
        return functools.wraps(load_url)(seen[load_url.__name__])

    @functools.wraps(load_url)
    def load_data_from_url(*args, **kwargs):
        return load_url(*args, **{**kwargs, 'weights_only': _data_only()})

    return load_data_from_url


def _data_only() -> bool:
    """False where the user's environment says that all files may run code, in torch's own terms."""
    said = os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '')
    return said.lower() not in ('1', 'y', 'yes', 'true')


# --- what an error means ------------------------------------------------------------------------


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
            f'If you trust whoever made the file, {_how_to_allow()}; otherwise save only the '
            'state_dict again.'
        )
    reason = str(error).strip().splitlines()[0]
    return f'The checkpoint {filename} is not one that torch.save wrote: {reason}'


def _how_to_allow() -> str:
    if hasattr(torch.serialization, 'add_safe_globals'):  # torch >= 2.4
        return (
            'allow it by torch.serialization.add_safe_globals in a module that your config imports'
        )
    return 'set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the environment'


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

    def written(path: Path) -> float:
        return path.stat().st_mtime

    others = set(broken.parent.glob('*.pth')) - {broken} if broken.is_file() else set()
    whole = [p for p in others if written(p) <= written(broken) and zipfile.is_zipfile(p)]
    return max(whole, key=written, default=None)
