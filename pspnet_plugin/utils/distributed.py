"""Several processes: which of them this one is, and the module inside their wrapper."""

from __future__ import annotations

import os
from typing import cast

from mmengine.model import is_model_wrapper
from torch import nn


def is_first_process() -> bool:
    """Whether this is the process that prints and writes what is said once for all of them.

    ``torchrun`` numbers the processes that it starts in ``RANK``, Slurm in ``SLURM_PROCID``. A
    process that neither has started is alone, and so the first.
    """
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside a wrapper such as MMDistributedDataParallel, or the module itself."""
    return cast(nn.Module, module.module) if is_model_wrapper(module) else module
