"""What the stock OpenMMLab stack needs in order to work on today's PyTorch.

:func:`apply` is called once, when ``pspnet_plugin`` is imported. Each repair first looks whether
the installed versions need it, and leaves them alone where they do not:

- ``mmcv-lite`` has no compiled operators, and ``mmseg.models`` imports some that it rarely uses.
- torch refuses the checkpoints that mmengine itself writes, and reads those from the web, as
  mmengine asks it to, with whatever code they hold.
- mmengine asks for a CUDA device when it starts several processes, also for gloo on CPUs, and
  such a process may abort at its end.
- mmengine knows no ``_base_ = 'pspnet_plugin::…'`` (:mod:`pspnet_plugin.compat.config_scope`).
"""

from __future__ import annotations

import importlib.util

import torch
from mmengine.device import get_device

from . import checkpoints, config_scope, gloo, mmcv_ops, optimizer_constructors, runner
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
            mmcv_ops.load_mmcv_operators_without_extension()
    checkpoints.allow_mmengine_checkpoints()
    checkpoints.read_checkpoints_safely()
    if get_device() in ('cpu', 'mps'):
        gloo.start_gloo_without_gpu()
    config_scope.patch()
    optimizer_constructors.patch()
    runner.patch()


def require_safe_torch() -> None:
    """Raise an ImportError where torch cannot be told which stand-ins a checkpoint may call."""
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        raise ImportError(
            f'pspnet_plugin needs torch 2.6 or later and torch {torch.__version__} is installed: '
            'an older one runs the code inside a checkpoint. Run "pip install \'torch>=2.6\'".'
        )
