"""Folders that metrics write to, in runs of several processes.

Wrong: mmseg's ``IoUMetric`` and ``CityscapesMetric`` with an ``output_dir``, which ``--out`` of the
test tool sets, make that folder in the first process only. Another process that predicts its first
image earlier ends with ``FileNotFoundError``.

Changed: nothing; before a runner is built, every process makes the folders that its config names.

Unnecessary as soon as mmseg makes the folder in each process, or waits for the first one.
"""

from __future__ import annotations

import os

from mmengine.config import Config

from ..config_parts import dicts_within
from . import runner


def make_folders(cfg: Config) -> None:
    """Make the ``output_dir`` of each evaluator in ``cfg`` where several processes write to it."""
    if cfg.get('launcher', 'none') == 'none':
        return
    for metric in dicts_within([cfg.get('val_evaluator'), cfg.get('test_evaluator')]):
        if metric.get('output_dir'):
            os.makedirs(metric['output_dir'], exist_ok=True)


def patch() -> None:
    """Let :func:`make_folders` see every config before a runner is built from it."""
    if make_folders not in runner.before_build:
        runner.before_build.append(make_folders)
