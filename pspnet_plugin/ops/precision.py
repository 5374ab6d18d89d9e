"""Dtypes and autocast, asked for in a way that the installed torch understands."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Callable

import torch
from torch import Tensor

_HAS_DEVICE_ARGUMENT = hasattr(torch.amp, 'is_autocast_available')  # torch >= 2.4


def at_least_float32(x: Tensor) -> Tensor:
    """x itself in float32 and float64; half precision becomes float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def may_be_finite(x: Tensor) -> bool:
    """False where x holds NaN or an infinity; asked on CPUs only, elsewhere it would wait.

    A matrix product spreads them over whole rows, also from where its factor is zero.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.device.type != 'cpu' or bool(x.detach().sum(dtype=dtype).isfinite())


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Compute in the dtypes of the operands, on the device of ``x``."""
    on_meta = x.device.type == 'meta'  # has shapes only, and no autocast
    return nullcontext() if on_meta else torch.autocast(x.device.type, enabled=False)


def autocasts_on_cpu() -> bool:
    """Whether ``torch.autocast('cpu')`` is on."""
    if _HAS_DEVICE_ARGUMENT:
        return torch.is_autocast_enabled('cpu')
    return torch.is_autocast_cpu_enabled()


def current_autocast(device_type: str) -> Callable[[], AbstractContextManager]:
    """A function whose context has the autocast settings of this moment, whenever it is entered."""
    if device_type == 'meta':  # has shapes only, and no autocast
        return nullcontext
    if _HAS_DEVICE_ARGUMENT:
        enabled = torch.is_autocast_enabled(device_type)
        dtype = torch.get_autocast_dtype(device_type)
    elif device_type == 'cpu':
        enabled, dtype = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        enabled, dtype = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return partial(torch.autocast, device_type, dtype, enabled)
