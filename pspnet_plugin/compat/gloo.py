"""``--launcher pytorch`` with gloo on a machine without a GPU.

Wrong: mmengine selects a CUDA device before it starts gloo, which raises where there is no driver.
It also never ends gloo, so a process may abort after its work is done: a thread of gloo still holds
tensors of the last exchange and needs Python's lock to release them, which it cannot get any more
once the interpreter is being taken down.

Changed, on machines without a GPU and for as long as the process runs:
``mmengine.dist.utils._init_dist_pytorch`` starts the gloo backend by itself, and the process waits
a moment before it ends, in which the main thread leaves the lock to gloo. Every other backend is
started as before.

Unnecessary as soon as mmengine selects a CUDA device for backends that use one only, and ends what
it started.
"""

from __future__ import annotations

import atexit
import functools
import time

import torch
from mmengine.dist import utils

# Seconds; releasing the tensors takes microseconds.
GLOO_RELEASES_WITHIN = 0.2


@functools.cache  # twice is the same as once
def patch() -> None:
    """Let mmengine start gloo without selecting a CUDA device."""
    start = utils._init_dist_pytorch

    @functools.wraps(start)
    def init_dist_pytorch(backend, init_backend='torch', **kwargs):
        if (backend, init_backend) == ('gloo', 'torch'):
            torch.distributed.init_process_group(backend=backend, **kwargs)
            atexit.register(time.sleep, GLOO_RELEASES_WITHIN)
        else:
            start(backend, init_backend=init_backend, **kwargs)

    utils._init_dist_pytorch = init_dist_pytorch
