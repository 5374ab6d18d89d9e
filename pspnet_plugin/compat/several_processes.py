"""Runs of several processes: communication hooks, gloo without a GPU, and the files of metrics.

Wrong: up to torch 2.1 ``DistributedDataParallel`` hands a communication hook to its reducer and
forgets it, so it is lost where ``LayerFreezeHook`` gives the wrapper another reducer. mmengine
selects a CUDA device before it starts gloo, which raises where there is no driver. It never ends
gloo, so a process may abort after its work is done: a thread of gloo still holds tensors of the
last exchange and needs Python's lock to release them, which it cannot get any more once the
interpreter is being taken down. Its ``LoggerHook`` writes the metrics of a test to one file from
all processes at once, which may mix what they write. And mmseg's ``IoUMetric`` and
``CityscapesMetric`` make their ``output_dir``, which ``--out`` of the test tool sets, in the first
process only: another one that predicts its first image earlier ends with ``FileNotFoundError``.

Changed, on torch 2.1 and for as long as the process runs: ``register_comm_hook`` also keeps the
hook in ``_comm_hooks``, as that of later versions does. On machines without a GPU and while
``pspnet train`` or ``pspnet test`` runs: ``mmengine.dist.utils._init_dist_pytorch`` and
``_init_dist_slurm`` select no device for the gloo backend, and the process waits a moment before it
ends, in which the main thread leaves the lock to gloo. Before these commands build a runner, every
process makes the folders that its config names, and in all but the first ``LoggerHook`` in the
config means one that does not write that file.

Unnecessary as soon as the plugin no longer supports torch 2.1, mmengine selects a CUDA device for
backends that use one only, ends what it started and writes the file in the first process only, and
mmseg makes the folder in each process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import utils
from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS
from torch.nn.parallel import DistributedDataParallel

from ..utils.config_tree import dicts_within
from ..utils.distributed import is_first_process

# Seconds; releasing the tensors takes microseconds.
GLOO_RELEASES_WITHIN = 0.2


def patch() -> None:
    """Let wrappers remember their communication hooks where they forget them."""
    wrapper: Any = DistributedDataParallel
    register = wrapper.register_comm_hook
    if '_comm_hooks' in register.__code__.co_names:
        return

    @functools.wraps(register)
    def register_and_keep(self: Any, state: object, hook: Callable) -> None:
        register(self, state, hook)
        self._comm_hooks = [*getattr(self, '_comm_hooks', ()), (hook, state)]

    wrapper.register_comm_hook = register_and_keep


def gloo_without_a_gpu() -> contextlib.AbstractContextManager:
    """Within this context mmengine starts gloo without a CUDA device where there is no GPU."""
    if get_device() not in ('cpu', 'mps'):
        return contextlib.nullcontext()
    names = '_init_dist_pytorch', '_init_dist_slurm'
    starts: dict[str, Any] = {name: _without_a_device(getattr(utils, name)) for name in names}
    return mock.patch.multiple(utils, **starts)


def _without_a_device(start: Callable) -> Callable:
    @functools.wraps(start)
    def start_without_a_device(backend: str, *args: Any, **kwargs: Any) -> None:
        if backend != 'gloo':
            start(backend, *args, **kwargs)
            return
        with mock.patch.object(torch.cuda, 'set_device'):
            start(backend, *args, **kwargs)
        atexit.register(time.sleep, GLOO_RELEASES_WITHIN)

    return start_without_a_device


@HOOKS.register_module()
class LoggerHookOfOthers(LoggerHook):
    """mmengine's, in a process that is not the first: it leaves the metrics' file to that one."""

    def after_test_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Write nothing."""


def fit_to_processes(cfg: Config) -> None:
    """Where several processes run ``cfg``, let each write its metrics without the others' harm."""
    if cfg.get('launcher', 'none') == 'none':
        return
    for metric in dicts_within([cfg.get('val_evaluator'), cfg.get('test_evaluator')]):
        if metric.get('output_dir'):
            os.makedirs(metric['output_dir'], exist_ok=True)
    if is_first_process():
        return
    if not cfg.get('default_hooks'):
        cfg.default_hooks = {}
    hook = cfg.default_hooks.setdefault('logger', {'type': 'LoggerHook'})
    if hook and hook.get('type') == 'LoggerHook':
        hook['type'] = LoggerHookOfOthers.__name__
