"""Whether somebody has put hooks on a module, or another method, or replaced it.

A head may leave out such a call, or make it with other arguments than stock does, only where nobody
can tell the difference.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules import module as registry


def is_hooked(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs hooks, also global ones, or a ``forward`` put on it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or 'forward' in module.__dict__
        or registry._global_forward_hooks
        or registry._global_forward_pre_hooks
        or registry._global_backward_hooks
        or registry._global_backward_pre_hooks
    )


def runs_as_written(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether a call of ``module`` runs the ``forward`` of ``cls`` and nothing else."""
    # Exporters and FSDP call modules through subclasses of their own.
    return isinstance(module, cls) and type(module).forward is cls.forward and not is_hooked(module)


def has_methods_of(cls: type, module: nn.Module, names: Sequence[str]) -> bool:
    """Whether neither a subclass of ``cls`` nor somebody later replaced one of these methods."""
    methods = ((getattr(module, name), getattr(cls, name)) for name in names)
    return all(getattr(method, '__func__', None) is written for method, written in methods)
