"""Whether a compiler, exporter or function transform watches what is computed."""

from __future__ import annotations

from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental import proxy_tensor

if hasattr(getattr(torch, 'compiler', None), 'is_compiling'):
    _is_compiling = torch.compiler.is_compiling
else:  # torch < 2.3
    _is_compiling = torch._dynamo.is_compiling

if hasattr(proxy_tensor, 'get_proxy_mode'):
    _make_fx_mode = proxy_tensor.get_proxy_mode
else:  # torch < 2.2
    _make_fx_mode = proxy_tensor.get_innermost_proxy_mode


def is_recorded(x: Tensor) -> bool:
    """Whether a compiler, exporter or ``make_fx`` records what is done with x.

    The record may be run with other sizes, or with other implementations of the operations. It
    gets plain operations, and none that were chosen by comparing sizes.
    """
    return (
        _is_compiling()
        or torch.jit.is_tracing()
        or type(x) is not Tensor
        or _make_fx_mode() is not None
    )


def is_transformed(x: Any) -> bool:
    """Whether ``torch.fx`` traces x, or ``torch.func`` or forward-mode AD transforms what is done.

    They have rules for stock's operations, but not for writing into given memory or for our own
    autograd functions.
    """
    if _is_compiling():  # handles transforms itself, and cannot trace the C function below
        return False
    return (
        not isinstance(x, Tensor)
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )
