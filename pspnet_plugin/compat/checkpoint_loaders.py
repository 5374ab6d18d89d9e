"""mmengine's loaders of checkpoints read data only, and say in one line why a file is refused.

Wrong: mmengine's loaders for the web let a checkpoint run any code, those of its fork
``onedl-mmengine`` try that after a refusal, a file that torch refuses or that is cut ends in a
traceback from within torch, and nobody compares a file with its checksums.

Changed, for as long as the process runs, all in ``mmengine.runner.checkpoint``: its ``load_url``,
the ``load`` of its ``torch``, and the fork's ``_safe_torch_load`` read as :func:`.checkpoints.load`
does; ``CheckpointLoader.load_checkpoint``, behind which every loader stands, explains errors. All
files may run code where TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD says so.

Unnecessary as soon as mmengine reads what it writes with ``weights_only=True`` everywhere.
"""

from __future__ import annotations

import functools
import io
import mmap
import os
import pickle
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.runner import checkpoint as mmengine_checkpoint

from ..errors import PspnetPluginError
from ..utils.checkpoint_errors import why_unreadable
from ..utils.checkpoint_zip import fault_of, is_zip
from . import checkpoints
from .checkpoints import reading_checkpoints


class CheckpointError(PspnetPluginError):
    """A checkpoint cannot be read: it is broken, or it holds more than data."""


def patch() -> None:
    """Let mmengine's loaders read data only and explain their errors."""
    loader = mmengine_checkpoint.CheckpointLoader
    read = loader.load_checkpoint.__func__

    @functools.wraps(read)
    def load_checkpoint(cls: type, filename: str, *args: Any, **kwargs: Any) -> Any:
        refuse_damage(str(filename))
        try:
            with reading_checkpoints():
                content = read(cls, filename, *args, **kwargs)
        except Exception as error:  # torch reports a broken file in a dozen ways
            reason = explain_load_error(str(filename), error)
            if reason is None:
                raise
            raise CheckpointError(f'The checkpoint {filename} {reason}') from error
        state = content.get('state_dict', content) if isinstance(content, Mapping) else content
        # mmengine would end in a traceback
        if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
            raise CheckpointError(
                f"The checkpoint {filename} has a {type(state).__name__} as its 'state_dict', not "
                'a mapping of names to tensors: save model.state_dict() there.'
            )
        return content

    mmengine_checkpoint.torch = _TorchThatLoadsData('torch')
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):  # the fork
        mmengine_checkpoint._safe_torch_load = _TorchThatLoadsData.load
    mmengine_checkpoint.load_url = load_url
    loader.load_checkpoint = classmethod(load_checkpoint)


class _TorchThatLoadsData(types.ModuleType):
    """torch as ``mmengine.runner.checkpoint`` sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(*args: Any, weights_only: bool | None = None, **kwargs: Any) -> Any:
        return checkpoints.load(*args, data_only=_data_only(), **kwargs)


def load_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True
) -> Any:
    """As ``torch.hub.load_state_dict_from_url``, with our own reader."""
    folder = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
    path = Path(folder, os.path.basename(urlparse(url).path))
    if not path.exists():
        os.makedirs(folder, exist_ok=True)
        print(f'Downloading: "{url}" to {path}')
        torch.hub.download_url_to_file(url, str(path), progress=progress)
    file: Path | io.BytesIO = path
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) == 1:  # somebody has zipped a checkpoint, as before torch 1.6
                file = io.BytesIO(archive.read(names[0]))
    return checkpoints.load(file, map_location, data_only=_data_only())


def _data_only() -> bool:
    """False where the user's environment says that all files may run code, in torch's own terms."""
    said = os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '')
    return said.lower() not in ('1', 'y', 'yes', 'true')


# --- what is wrong with a file ------------------------------------------------------------------


def refuse_damage(filename: str) -> None:
    """Raise a CheckpointError for a file on this machine that torch need not read to be refused."""
    path = Path(filename)
    # os.path also takes an address that is too long for the name of a file.
    if os.path.islink(path) and not os.path.exists(path):
        raise CheckpointError(
            f'The checkpoint {filename} is a link to {os.readlink(path)}, which does not exist. '
            'Name the checkpoint itself.'
        )
    fault = fault_of(path) if os.path.isfile(path) and is_zip(path) else None
    if fault:
        raise CheckpointError(f'The checkpoint {filename} {fault} {_way_out(path)}')


def explain_load_error(filename: str, error: Exception) -> str | None:
    """Why torch refused a checkpoint, as the end of a sentence; None where it is not the file."""
    if isinstance(error, PermissionError):
        return None
    path = Path(filename)
    allow_name = allow_all = 'set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the environment'
    if hasattr(torch.serialization, 'add_safe_globals'):  # since torch 2.4
        allow_name = (
            'allow it by torch.serialization.add_safe_globals in a module that your config imports'
        )
    reason, unsafe = why_unreadable(path, error, allow_name, allow_all)
    if unsafe:
        return reason
    if os.path.isfile(path):
        try:  # whether torch reads it into the memory of the CPU, whatever else failed
            checkpoints.load(path, 'cpu', data_only=_data_only())
            return None
        except Exception:  # torch reports a broken file in a dozen ways
            return f'{reason} {_way_out(path)}'
    words = ('truncated', 'PytorchStreamReader')
    broken = isinstance(error, (EOFError, pickle.UnpicklingError))
    broken = broken or any(word in str(error) for word in words)
    return f'{reason} {_way_out(path)}' if broken else None


def _way_out(broken: Path) -> str:
    """How to go on: from the newest whole file beside it that the same run wrote before it."""
    beside = broken.parent.glob('*.pth') if os.path.isfile(broken) else ()
    written = {p: p.stat().st_mtime for p in beside if p.is_file()}
    for path in sorted(written, key=written.__getitem__, reverse=True):
        earlier = path != broken and written[path] <= broken.stat().st_mtime
        if earlier and is_zip(path) and not fault_of(path) and _resumes_run_of(path, broken):
            return (
                f'The last whole checkpoint of its run is {path}: resume with '
                f'--resume --cfg-options load_from={path}'
            )
    return 'No whole checkpoint of its run lies beside it: start again, or fetch the file again.'


def _resumes_run_of(whole: Path, broken: Path) -> bool:
    """Whether ``broken`` has the name of the experiment that wrote ``whole`` in it.

    mmengine writes this name, which has the time of start in it, into its checkpoints, and that of
    the first one too into those of a resumed run. Files without the state of an optimizer, as the
    best checkpoint of a run, cannot be resumed.
    """
    try:
        content = checkpoints.load(whole, 'meta')
        if 'optimizer' not in content:
            return False
        name = content['meta']['experiment_name'].encode()
        with open(broken, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            return bool(name) and m.find(name) >= 0
    except Exception:  # a file that no run of mmengine has written, or an empty one
        return False
