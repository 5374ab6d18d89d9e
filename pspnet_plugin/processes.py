"""Which of several processes this one is, before ``torch.distributed`` has connected them."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this is the process that prints and writes what is said once for all of them.

    ``torchrun`` numbers the processes that it starts in ``RANK``, Slurm in ``SLURM_PROCID``. A
    process that neither has started is alone, and so the first.
    """
    return os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0'
