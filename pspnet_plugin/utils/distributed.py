"""Processes of ``torchrun`` or Slurm: which of them this one is, and what they exchange."""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from mmengine import dist
from mmengine.model import is_model_wrapper
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import PredictionError, PspnetPluginError
from .text import one_line

# How long one process waits for the slowest other.
TIMEOUT = datetime.timedelta(days=30)
FIRST_PORT, PORTS = 20000, 10000  # one for each job of Slurm, so that two may run on one machine


def is_first_process() -> bool:
    """Whether this is the process that prints and writes what is said once for all of them."""
    return rank() == 0


def rank() -> int:
    """The number of this process.

    ``torchrun`` numbers the processes that it starts in ``RANK``, Slurm in ``SLURM_PROCID``. A
    process that neither has started is alone, and so the first.
    """
    return int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')))


def world_size() -> int:
    """How many processes there are."""
    if 'WORLD_SIZE' in os.environ:
        return int(os.environ['WORLD_SIZE'])
    if 'SLURM_STEP_NUM_TASKS' in os.environ:
        return int(os.environ['SLURM_STEP_NUM_TASKS'])
    # A batch script is one process, and Slurm tells it how many srun would start.
    if os.environ.get('ENVIRONMENT') == 'BATCH' or 'SLURM_PROCID' not in os.environ:
        return 1
    return int(os.environ.get('SLURM_NTASKS', '1'))


def device_of_process(device: str | None) -> str | None:
    """The GPU of this process among those of its machine, where no device is named."""
    local = os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID'))
    if device not in (None, 'cuda') or local is None or not torch.cuda.is_available():
        return device
    return f'cuda:{int(local) % torch.cuda.device_count()}'


@contextlib.contextmanager
def connected() -> Iterator[tuple[int, int]]:
    """The processes of this command, connected: the number of this one, and how many there are."""
    number, count = rank(), world_size()
    if count == 1:
        yield 0, 1
        return
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = first_slurm_node()
    if 'MASTER_PORT' not in os.environ:
        job = int(os.environ.get('SLURM_JOB_ID', '0'))
        os.environ['MASTER_PORT'] = str(FIRST_PORT + job % PORTS)
    # mmengine's init_dist selects a GPU by its local number, and fails where each process sees one.
    torch.distributed.init_process_group('gloo', timeout=TIMEOUT, rank=number, world_size=count)
    try:
        yield number, count
    finally:
        torch.distributed.destroy_process_group()


def in_first_process(function: Callable[[], Any]) -> None:
    """Call ``function`` in the first of the connected processes; where it fails, all raise."""
    failure: list[str | None] = [None]
    try:
        if dist.get_rank() == 0:
            function()
    except Exception as error:
        failure = [str(error) if isinstance(error, PspnetPluginError) else one_line(error)]
        raise
    finally:  # the others must not wait for ever
        dist.broadcast_object_list(failure)
    if failure[0] is not None:
        raise PspnetPluginError(failure[0])


def first_slurm_node() -> str:
    """The machine of the first process."""
    nodes = os.environ.get('SLURM_STEP_NODELIST', os.environ.get('SLURM_NODELIST', ''))
    try:
        asked = ['scontrol', 'show', 'hostnames', nodes]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise PredictionError(
            f'scontrol does not say which machine of {nodes!r} is the first ({error}). Set '
            'MASTER_ADDR to its name or address.'
        ) from error


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside a wrapper such as MMDistributedDataParallel, or the module itself."""
    return cast(nn.Module, module.module) if is_model_wrapper(module) else module


def is_sharded(model: nn.Module) -> bool:
    """Whether a wrapper such as FSDP's has taken parameters apart, of which each holds a part."""
    return is_model_wrapper(model) and not isinstance(model, DistributedDataParallel)
