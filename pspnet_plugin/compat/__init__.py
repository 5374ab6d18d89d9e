"""Repairs of the stock OpenMMLab stack, so that it works on today's PyTorch: a file for each.

:func:`apply` is called when ``pspnet_plugin`` is imported, and applies those that the installed
versions need. Each file says what is wrong, what is changed and for how long, and when it becomes
unnecessary; ``docs/compat.md`` has the list. Nothing outside this folder replaces a function of
another package.
"""

from __future__ import annotations

import functools

from . import (
    checkpoint_files,
    checkpoint_loaders,
    config_scope,
    mmcv_ops,
    runner,
    several_processes,
)
from .mmcv_ops import MissingOperatorError

__all__ = ['MissingOperatorError', 'apply']


@functools.cache  # twice is the same as once
def apply() -> None:
    """Repair what needs repair in the installed mmengine, mmcv and mmseg.

    Raises:
        ImportError: mmseg is installed without any distribution of mmcv.
    """
    mmcv_ops.patch()
    several_processes.patch()
    checkpoint_files.patch()
    checkpoint_loaders.patch()
    config_scope.patch()
    runner.patch()
