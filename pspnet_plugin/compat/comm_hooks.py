"""Which communication hooks a ``DistributedDataParallel`` has.

Wrong: up to torch 2.1 the wrapper hands a communication hook to its reducer and forgets it.
``LayerFreezeHook`` gives the wrapper another reducer at each transition, on which the hook would
be lost, and with it a compression of gradients, for example.

Changed, on such a torch and for as long as the process runs:
``DistributedDataParallel.register_comm_hook`` also keeps the hook in ``_comm_hooks``, as that of
later versions does.

Unnecessary as soon as the plugin no longer supports torch 2.1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch.nn.parallel import DistributedDataParallel


def patch() -> None:
    """Let wrappers remember their communication hooks where they forget them."""
    wrapper: Any = DistributedDataParallel
    register = wrapper.register_comm_hook
    if '_comm_hooks' in register.__code__.co_names:
        return

    @functools.wraps(register)
    def register_and_keep(self: Any, state: object, hook: Callable) -> None:
        register(self, state, hook)
        self._comm_hooks = [*getattr(self, '_comm_hooks', ()), (hook, state)]

    wrapper.register_comm_hook = register_and_keep
