"""Folders and files that metrics are written to, in runs of several processes.

Wrong: mmseg's ``IoUMetric`` and ``CityscapesMetric`` with an ``output_dir``, which ``--out`` of the
test tool sets, make that folder in the first process only. Another process that predicts its first
image earlier ends with ``FileNotFoundError``. And mmengine's ``LoggerHook`` writes the metrics of a
test to one file from all processes at once, which may mix what they write.

Changed: nothing; before ``pspnet train`` and ``pspnet test`` build a runner, every process makes
the folders that its config names, and in all but the first ``LoggerHook`` in the config means one
that does not write that file.

Unnecessary as soon as mmseg makes the folder in each process, or waits for the first one, and as
soon as mmengine writes the file in the first process only.
"""

from __future__ import annotations

import os
from typing import Any

from mmengine.config import Config
from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS

from ..utils.config_tree import dicts_within
from ..utils.distributed import is_first_process


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
