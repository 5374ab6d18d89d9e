"""mmengine's loaders of checkpoints read data only, and say in one line why a file is refused.

Wrong: mmengine's loaders for the web let a checkpoint run any code, those of its fork
``onedl-mmengine`` try that after a refusal, a file that torch refuses or that is cut ends in a
traceback from within torch, and nobody compares a file with its checksums.

Changed, for as long as the process runs, all in ``mmengine.runner.checkpoint``: its ``load_url``,
the ``load`` of its ``torch``, and the ``_safe_torch_load`` that the fork calls in place of that,
read as :func:`.checkpoints.load` does; ``CheckpointLoader.load_checkpoint`` explains errors. Every
loader stands behind it: paths, ``http://``, ``torchvision://``, ``open-mmlab://`` and the rest,
for the test tool, ``--resume``, ``load_from`` and ``Pretrained``. All files may run code where
TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD says so. ``torch.load`` itself is as it was.

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


@functools.cache  # twice is the same as once
def patch() -> None:
    """Let mmengine's loaders read data only and explain their errors."""
    loader = mmengine_checkpoint.CheckpointLoader
    read = loader.load_checkpoint.__func__

    @functools.wraps(read)
    def load_checkpoint(cls: type, filename: str, *args: Any, **kwargs: Any) -> Any:
        _refuse(explain_damage(str(filename)))
        try:
            with reading_checkpoints():
                content = read(cls, filename, *args, **kwargs)
        except Exception as error:  # torch reports a broken file in a dozen ways
            _refuse(explain_load_error(str(filename), error), error)
            raise
        _refuse(explain_content(str(filename), content))
        return content

    mmengine_checkpoint.torch = _TorchThatLoadsData('torch')
    if hasattr(mmengine_checkpoint, '_safe_torch_load'):  # the fork
        mmengine_checkpoint._safe_torch_load = _TorchThatLoadsData.load
    mmengine_checkpoint.load_url = load_url
    loader.load_checkpoint = classmethod(load_checkpoint)


def _refuse(message: str | None, cause: Exception | None = None) -> None:
    if message is not None:
        raise CheckpointError(message) from cause


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
    return checkpoints.load(_unpacked(path), map_location, data_only=_data_only())


def _unpacked(path: Path) -> Path | io.BytesIO:
    """A file, or the one that it holds where somebody has zipped it, as before torch 1.6."""
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) == 1:
                return io.BytesIO(archive.read(names[0]))
    return path


def _data_only() -> bool:
    """False where the user's environment says that all files may run code, in torch's own terms."""
    said = os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '')
    return said.lower() not in ('1', 'y', 'yes', 'true')


# --- what is wrong with a file ------------------------------------------------------------------


def explain_damage(filename: str) -> str | None:
    """What is wrong with a file on this machine before torch reads it; None where nothing is."""
    path = Path(filename)
    # os.path also takes an address that is too long for the name of a file.
    if os.path.islink(path) and not os.path.exists(path):
        return (
            f'The checkpoint {filename} is a link to {os.readlink(path)}, which does not exist. '
            'Name the checkpoint itself.'
        )
    fault = fault_of(path) if os.path.isfile(path) and is_zip(path) else None
    return f'The checkpoint {filename} {fault} {_way_out(path)}' if fault else None


def explain_content(filename: str, content: Any) -> str | None:
    """What is wrong with what a checkpoint holds, where mmengine would end in a traceback."""
    state = content.get('state_dict', content) if isinstance(content, dict) else {}
    if isinstance(state, Mapping):
        return None
    return (
        f"The checkpoint {filename} has a {type(state).__name__} as its 'state_dict', not a "
        'mapping of names to tensors: save model.state_dict() there.'
    )


def explain_load_error(filename: str, error: Exception) -> str | None:
    """What is wrong with a checkpoint that torch refused, or None where the reason is elsewhere."""
    if isinstance(error, PermissionError):
        return None
    path = Path(filename)
    allow_all = 'set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the environment'
    # torch >= 2.4 has a list of names that may stand in a file.
    has_list = hasattr(torch.serialization, 'add_safe_globals')
    allow_name = (
        'allow it by torch.serialization.add_safe_globals in a module that your config imports'
    )
    reason, unsafe = why_unreadable(path, error, allow_name if has_list else allow_all, allow_all)
    if unsafe:
        return f'The checkpoint {filename} {reason}'
    if os.path.isfile(path):
        broken = not _reads_by_itself(path)
    else:
        broken = isinstance(error, (EOFError, pickle.UnpicklingError)) or _of_torchs_reader(error)
    return f'The checkpoint {filename} {reason} {_way_out(path)}' if broken else None


def _of_torchs_reader(error: Exception) -> bool:
    return any(word in str(error) for word in ('truncated', 'PytorchStreamReader'))


def _reads_by_itself(path: Path) -> bool:
    """Whether torch reads a file into the memory of the CPU, whatever else failed."""
    try:
        checkpoints.load(path, 'cpu', data_only=_data_only())
    except Exception:  # torch reports a broken file in a dozen ways
        return False
    return True


def _way_out(path: Path) -> str:
    earlier = last_whole_checkpoint_before(path)
    if earlier is None:
        return (
            'No whole checkpoint of its run lies beside it: start again, or fetch the file again.'
        )
    return (
        f'The last whole checkpoint of its run is {earlier}: resume with '
        f'--resume --cfg-options load_from={earlier}'
    )


def last_whole_checkpoint_before(broken: Path) -> Path | None:
    """The newest whole ``.pth`` file beside ``broken`` that its run wrote before it, if any.

    mmengine writes the name of an experiment, which has its time of start in it, into its
    checkpoints, and the name of the first one too into those of a resumed run. A file whose name
    ``broken`` does not contain is of another run.
    """
    if not os.path.isfile(broken):
        return None
    others = [p for p in broken.parent.glob('*.pth') if p.is_file() and p != broken]
    written = broken.stat().st_mtime
    earlier = [p for p in others if p.stat().st_mtime <= written]
    for path in sorted(earlier, key=lambda p: p.stat().st_mtime, reverse=True):
        if is_zip(path) and not fault_of(path) and _resumes_run_of(path, broken):
            return path
    return None


def _resumes_run_of(whole: Path, broken: Path) -> bool:
    """Whether ``broken`` has the name of the experiment that wrote ``whole`` in it.

    Files without the state of an optimizer, as the best checkpoint of a run, cannot be resumed.
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
