"""Checkpoints that are whole or not there.

Wrong: mmengine's ``CheckpointHook``, up to 0.10, removes the checkpoint that a new one replaces
before it writes the new one, and writes in place. A full disk or a killed process then leaves a
broken file or none, and ``last_checkpoint`` may be empty.

Changed, for as long as the process runs: ``LocalBackend.put`` and ``CheckpointHook`` write beside
the file (``NAME.NUMBER.part``) and put the whole file in its place; what a checkpoint replaces is
removed afterwards, so for a moment the disk holds one more than ``max_keep_ckpts``.

Unnecessary as soon as mmengine writes first and removes then.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, checkpoint_hook
from mmengine.runner import Runner

from ..errors import PspnetPluginError
from ..utils.files import write_whole


class CheckpointNotWrittenError(PspnetPluginError, OSError):
    """A checkpoint could not be written; the ones from before are as they were."""


def patch() -> None:
    """Write files whole, and remove old checkpoints after new ones are written."""
    put = LocalBackend.put

    @functools.wraps(put)
    def put_whole(self: LocalBackend, obj: bytes, filepath: str | Path) -> None:
        if os.path.exists(filepath) and not os.path.isfile(filepath):  # a pipe, a device
            put(self, obj, filepath)
            return
        os.makedirs(os.path.dirname(os.path.abspath(filepath)), exist_ok=True)
        with write_whole(filepath, 'wb') as file:
            file.write(obj)

    LocalBackend.put = put_whole
    checkpoint_hook.open = write_whole
    for name in ('_save_checkpoint_with_step', '_save_best_checkpoint'):
        setattr(CheckpointHook, name, remove_afterwards(getattr(CheckpointHook, name)))


def remove_afterwards(save: Callable) -> Callable:
    """A method of CheckpointHook that removes files when ``save`` has ended, not within it."""

    @functools.wraps(save)
    def save_then_remove(self: CheckpointHook, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if not hasattr(self, 'file_backend'):  # a run that only validates: there is nothing to save
            save(self, runner, *args, **kwargs)
            return
        backend = self.file_backend
        self.file_backend = later = copy.copy(backend)
        asked: list[tuple[Callable, str]] = []
        later.remove = lambda path: asked.append((backend.remove, path))
        later.rmtree = lambda path: asked.append((backend.rmtree, path))
        try:
            save(self, runner, *args, **kwargs)
        except CheckpointNotWrittenError:  # one of these methods calls the other
            raise
        except OSError as error:
            last, left = last_checkpoint(runner), 'Make room.'
            if last:
                left = f'{last} is whole: make room and go on from it with --resume.'
            raise CheckpointNotWrittenError(
                f'No checkpoint could be written to {self.out_dir} at iteration {runner.iter}: '
                f'{error.strerror or error}. {left}'
            ) from error
        finally:
            self.file_backend = backend
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        kept = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        for remove, path in asked:
            if path not in kept:
                remove(path)

    return save_then_remove


def last_checkpoint(runner: Runner) -> str:
    """The path of the last checkpoint that a run has written, empty where there is none."""
    record = Path(runner.work_dir, 'last_checkpoint')
    return record.read_text().strip() if record.is_file() else ''
