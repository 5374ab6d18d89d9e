"""The processes of ``torchrun`` that share the images of one command."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from ...errors import PredictionError

# How long one process waits for the slowest other.
PATIENCE = datetime.timedelta(days=30)


class Ranks(NamedTuple):
    """This process among all of them."""

    rank: int = 0
    world: int = 1

    def first(self, function: Callable[[], Any]) -> None:
        """Call ``function`` in the first process; all raise what it raises there.

        Raises:
            PredictionError: what ``function`` raised.
        """
        if self.world == 1:
            function()
            return
        failure: list[str | None] = [None]
        if self.rank == 0:
            try:
                function()
            except Exception as error:  # the others must not wait for ever
                failure = [str(error)]
        dist.broadcast_object_list(failure)
        if failure[0] is not None:
            raise PredictionError(failure[0])

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the first one; nothing in the others."""
        if self.world == 1:
            return [value]
        values = [None] * self.world if self.rank == 0 else None
        dist.gather_object(value, values)
        return values or []


@contextlib.contextmanager
def connected() -> Iterator[Ranks]:
    """The processes that ``torchrun`` has started, connected; one where it has not."""
    if int(os.environ.get('WORLD_SIZE', '1')) == 1:
        yield Ranks()
        return
    dist.init_process_group('gloo', timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def own_device(device: str | None) -> str | None:
    """The GPU of this process among those of its machine, where no device is named."""
    local = os.environ.get('LOCAL_RANK')
    if device not in (None, 'cuda') or local is None or not torch.cuda.is_available():
        return device
    return f'cuda:{int(local) % torch.cuda.device_count()}'
