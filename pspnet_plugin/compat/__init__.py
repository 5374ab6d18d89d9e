"""Repairs of the stock OpenMMLab stack, so that it works on PyTorch 2.0 and later: a file for each.

:func:`apply` is called once, when ``pspnet_plugin`` is imported, and applies those that the
installed versions need. :mod:`.gloo` and :mod:`.metric_files` are for several processes, and are
applied by ``pspnet train`` and ``pspnet test``. Each file says what is wrong, what is changed and
for how long, and when it becomes unnecessary; ``docs/compat.md`` has the list. Nothing outside this
folder replaces a function of another package.
"""

from __future__ import annotations

import importlib.util

from . import (
    checkpoint_files,
    checkpoint_loaders,
    comm_hooks,
    config_scope,
    mmcv_ops,
    runner,
)
from .mmcv_ops import MissingOperatorError

__all__ = ['MissingOperatorError', 'apply']


def apply() -> None:
    """Repair what needs repair in the installed mmengine, mmcv and mmseg.

    Raises:
        ImportError: mmseg is installed without any distribution of mmcv.
    """
    if importlib.util.find_spec('mmseg') is not None:
        mmcv_ops.require_mmcv()
        if mmcv_ops.needed():
            mmcv_ops.patch()
    if comm_hooks.needed():
        comm_hooks.patch()
    checkpoint_files.patch()
    checkpoint_loaders.patch()
    config_scope.patch()
    runner.patch()
