"""Repairs of the stock OpenMMLab stack, so that it works on today's PyTorch: a file for each.

:func:`apply` is called once, when ``pspnet_plugin`` is imported, and applies those that the
installed versions need. Each file says what is wrong, what is changed and for how long, and when it
becomes unnecessary; ``docs/compat.md`` has the list. Nothing outside this folder replaces a
function of another package.
"""

from __future__ import annotations

import importlib.util

import torch
from mmengine.device import get_device

from . import (
    checkpoint_files,
    checkpoint_loaders,
    config_scope,
    gloo,
    mmcv_ops,
    optimizer_constructors,
    runner,
)
from .mmcv_ops import MissingOperatorError

__all__ = ['MissingOperatorError', 'apply']


def apply() -> None:
    """Repair what needs repair in the installed mmengine, mmcv and mmseg.

    Raises:
        ImportError: torch is too old, or mmseg is installed without any distribution of mmcv.
    """
    require_safe_torch()
    if importlib.util.find_spec('mmseg') is not None:
        mmcv_ops.require_mmcv()
        if importlib.util.find_spec('mmcv._ext') is None:
            mmcv_ops.patch()
    if get_device() in ('cpu', 'mps'):
        gloo.patch()
    checkpoint_files.patch()
    checkpoint_loaders.patch()
    config_scope.patch()
    optimizer_constructors.patch()
    runner.patch()


def require_safe_torch() -> None:
    """Raise an ImportError where torch cannot be told which stand-ins a checkpoint may call.

    Before 2.6, ``weights_only=True`` also let some files run code.
    """
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        raise ImportError(
            f'pspnet_plugin needs torch 2.6 or later and torch {torch.__version__} is installed: '
            'an older one runs the code inside a checkpoint. Run "pip install \'torch>=2.6\'".'
        )
