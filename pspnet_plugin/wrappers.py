"""Models inside the wrappers that several GPUs need."""

from __future__ import annotations

from typing import cast

from mmengine.model import is_model_wrapper
from torch import nn


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside a wrapper such as MMDistributedDataParallel, or the module itself."""
    return cast(nn.Module, module.module) if is_model_wrapper(module) else module
