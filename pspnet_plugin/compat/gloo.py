"""``--launcher pytorch`` and ``--launcher slurm`` with gloo on a machine without a GPU.

Wrong: mmengine selects a CUDA device before it starts gloo, which raises where there is no driver.
It also never ends gloo, so a process may abort after its work is done: a thread of gloo still holds
tensors of the last exchange and needs Python's lock to release them, which it cannot get any more
once the interpreter is being taken down.

Changed, on machines without a GPU and while ``pspnet train`` or ``pspnet test`` runs:
``mmengine.dist.utils._init_dist_pytorch`` and ``_init_dist_slurm`` select no device for the gloo
backend, and the process waits a moment before it ends, in which the main thread leaves the lock to
gloo. Every other backend is started as before.

Unnecessary as soon as mmengine selects a CUDA device for backends that use one only, and ends what
it started.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from mmengine.device import get_device
from mmengine.dist import utils

# Seconds; releasing the tensors takes microseconds.
GLOO_RELEASES_WITHIN = 0.2


@contextlib.contextmanager
def started_without_a_gpu() -> Iterator[None]:
    """Within this context mmengine starts gloo without a CUDA device where there is no GPU."""
    if get_device() not in ('cpu', 'mps'):
        yield
        return
    stock = utils._init_dist_pytorch, utils._init_dist_slurm
    utils._init_dist_pytorch, utils._init_dist_slurm = map(_without_a_device, stock)
    try:
        yield
    finally:
        utils._init_dist_pytorch, utils._init_dist_slurm = stock


def _without_a_device(start: Callable) -> Callable:
    @functools.wraps(start)
    def start_without_a_device(backend: str, *args: Any, **kwargs: Any) -> None:
        if backend != 'gloo':
            start(backend, *args, **kwargs)
            return
        with mock.patch.object(torch.cuda, 'set_device'):
            start(backend, *args, **kwargs)
        atexit.register(time.sleep, GLOO_RELEASES_WITHIN)

    return start_without_a_device
