"""``--launcher pytorch`` and ``--launcher slurm`` with gloo on a machine without a GPU.

Wrong: mmengine selects a CUDA device before it starts gloo, which raises where there is no driver.
It also never ends gloo, so a process may abort after its work is done: a thread of gloo still holds
tensors of the last exchange and needs Python's lock to release them, which it cannot get any more
once the interpreter is being taken down.

Changed, on machines without a GPU and for as long as the process runs:
``mmengine.dist.utils._init_dist_pytorch`` and ``_init_dist_slurm`` select no device for the gloo
backend, and the process waits a moment before it ends, in which the main thread leaves the lock to
gloo. Every other backend is started as before.

Unnecessary as soon as mmengine selects a CUDA device for backends that use one only, and ends what
it started.
"""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Callable
from unittest import mock

import torch
from mmengine.dist import utils

# Seconds; releasing the tensors takes microseconds.
GLOO_RELEASES_WITHIN = 0.2


@functools.cache  # twice is the same as once
def patch() -> None:
    """Let mmengine start gloo without selecting a CUDA device."""
    utils._init_dist_pytorch = without_a_device(utils._init_dist_pytorch)
    utils._init_dist_slurm = without_a_device(utils._init_dist_slurm)


def without_a_device(start: Callable) -> Callable:
    """``start``, which selects no CUDA device where it starts gloo."""

    @functools.wraps(start)
    def start_without_a_device(backend, *args, **kwargs):
        if backend != 'gloo':
            start(backend, *args, **kwargs)
            return
        with mock.patch.object(torch.cuda, 'set_device'):
            start(backend, *args, **kwargs)
        atexit.register(time.sleep, GLOO_RELEASES_WITHIN)

    return start_without_a_device
