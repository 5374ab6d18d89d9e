"""Several processes on a machine without a GPU."""

from __future__ import annotations

import atexit
import functools
import time

import torch

# Seconds; a thread that waits for Python's lock alone needs microseconds.
GLOO_RELEASES_WITHIN = 0.2


def start_gloo_without_gpu() -> None:
    """Let ``--launcher pytorch`` start gloo processes on a machine without a GPU.

    mmengine selects a CUDA device first, which raises where there is no driver. It also leaves the
    process group to the interpreter's end, where a worker thread of gloo that has yet to release
    the tensors of the last collective aborts the process: it needs Python's lock for that, and
    gets it while the main thread waits.
    """
    from mmengine.dist import utils

    start = utils._init_dist_pytorch
    if hasattr(start, 'starts_gloo'):
        return

    @functools.wraps(start)
    def init_dist_pytorch(backend, init_backend='torch', **kwargs):
        if (backend, init_backend) == ('gloo', 'torch'):
            torch.distributed.init_process_group(backend=backend, **kwargs)
            atexit.register(time.sleep, GLOO_RELEASES_WITHIN)
        else:
            start(backend, init_backend=init_backend, **kwargs)

    init_dist_pytorch.starts_gloo = True
    utils._init_dist_pytorch = init_dist_pytorch
