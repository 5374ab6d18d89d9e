"""What torch is doing at this moment, asked in a way that the installed version understands."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Callable

import torch
import torch._dynamo
from torch.fx.experimental import proxy_tensor

if hasattr(getattr(torch, 'compiler', None), 'is_compiling'):
    is_compiling = torch.compiler.is_compiling
else:  # torch < 2.3
    is_compiling = torch._dynamo.is_compiling


if hasattr(proxy_tensor, 'get_proxy_mode'):
    _proxy_mode = proxy_tensor.get_proxy_mode
else:  # torch < 2.2
    _proxy_mode = proxy_tensor.get_innermost_proxy_mode


def is_proxied() -> bool:
    """Whether ``make_fx`` traces what is done."""
    return _proxy_mode() is not None


def autocasts_on_cpu() -> bool:
    """Whether ``torch.autocast('cpu')`` is on."""
    if _ASKED_BY_DEVICE:
        return torch.is_autocast_enabled('cpu')
    return torch.is_autocast_cpu_enabled()


def autocast_now(device_type: str) -> Callable[[], AbstractContextManager]:
    """What enters the autocast of this moment again, at another one."""
    if device_type == 'meta':  # has shapes only, and no autocast
        return nullcontext
    if _ASKED_BY_DEVICE:
        enabled = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type)
    elif device_type == 'cpu':
        enabled, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        enabled, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return partial(torch.autocast, device_type, dtype, enabled)


_ASKED_BY_DEVICE = hasattr(torch.amp, 'is_autocast_available')  # torch >= 2.4
