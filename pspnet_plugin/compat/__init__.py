"""Repairs of the stock OpenMMLab stack, so that it works on today's PyTorch: a file for each.

:func:`apply` is called when ``pspnet_plugin`` is imported, and applies those that the installed
versions need; ``pspnet train`` and ``pspnet test`` apply :mod:`.several_processes`. Each file says
what is wrong, what is changed and for how long, and when it becomes unnecessary;
``docs/compat.md`` has the list. Nothing outside this folder replaces a function of another package.
"""

from __future__ import annotations

import functools

from . import checkpoint_files, checkpoint_loaders, comm_hooks, config_scope, mmcv_ops, runner
from .mmcv_ops import MissingOperatorError

__all__ = ['MissingOperatorError', 'apply']


@functools.cache  # twice is the same as once
def apply() -> None:
    """Repair what needs repair in the installed mmengine, mmcv and mmseg.

    Raises:
        ImportError: mmseg is installed without any distribution of mmcv.
    """
    for repair in (
        mmcv_ops,
        comm_hooks,
        checkpoint_files,
        checkpoint_loaders,
        config_scope,
        runner,
    ):
        repair.patch()
