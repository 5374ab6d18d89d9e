"""A model tried on an example, without a trace in the model that is trained."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from ..errors import PspnetPluginError


class CopyError(PspnetPluginError):
    """A copy of a model would run code of the model itself."""


def copy_without_hooks(model: nn.Module, shared: list[Tensor] | None = None) -> nn.Module:
    """A copy of ``model`` that calls no hooks of its modules before or after their forward pass.

    Args:
        shared: tensors that the copy has in common with ``model``.

    Raises:
        CopyError: a method of a module was replaced by a function, as by ``torch.compile``, whose
            copy would call the module itself.
    """
    memo: dict[int, object] = {id(tensor): tensor for tensor in shared or []}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            # deepcopy keeps functions as they are, and gives other objects the copy in its place.
            if isinstance(value, FunctionType) and hasattr(type(module), attribute):
                path = f'{name}.{attribute}' if name else attribute
                raise CopyError(
                    f'{path} of the model was replaced, as by torch.compile; the replacement in a '
                    'copy of the model would run the model itself.'
                )
        memo.update({id(hooks): OrderedDict() for hooks in _forward_hooks(module).values()})
    return copy.deepcopy(model, memo)


def has_hooks(module: nn.Module) -> bool:
    """Whether ``module`` calls a hook before or after its forward pass."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


def share_hooks(modules: list[nn.Module], copies: list[nn.Module]) -> None:
    """Make each copy call the hooks of its module, also those that are added or removed later."""
    for module, copied in zip(modules, copies):
        vars(copied).update(_forward_hooks(module))


def _forward_hooks(module: nn.Module) -> dict[str, Any]:
    """All that a module has for its forward hooks, by the names of the attributes."""
    names = ('_forward_pre_hooks', '_forward_hooks')
    return {name: hooks for name, hooks in vars(module).items() if name.startswith(names)}


@contextlib.contextmanager
def trial(model: nn.Module) -> Iterator[None]:
    """Within this context a copy of ``model`` may run: random states are restored afterwards.

    Raises:
        CopyError: a module of ``model`` itself is called.
    """
    originals = {id(module) for module in model.modules()}

    def refuse(module: nn.Module, inputs: tuple) -> None:
        if id(module) in originals:
            raise CopyError(f'A copy of the model would run {type(module).__name__} of the model.')

    restore = remember_random_states(model)
    handle = register_module_forward_pre_hook(refuse)
    try:
        yield
    finally:
        handle.remove()
        restore()


def remember_random_states(model: nn.Module) -> Callable[[], None]:
    """What gives Python, numpy, and torch on the devices of ``model`` their present states back."""
    gpus = {p.device for p in model.parameters() if p.device.type == 'cuda'}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu_states = [(gpu, torch.cuda.get_rng_state(gpu)) for gpu in gpus]

    def restore() -> None:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        for gpu, state in gpu_states:
            torch.cuda.set_rng_state(state, gpu)

    return restore


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Within this context float32 is not rounded to TensorFloat-32 or bfloat16."""
    backends: Any = torch.backends
    exact: object
    if hasattr(backends.cudnn, 'conv'):  # since torch 2.9, which refuses the older names beside it
        owners = [backends.cudnn.conv, backends.cuda.matmul]
        owners += [backends.mkldnn.conv, backends.mkldnn.matmul]
        name, exact = 'fp32_precision', 'ieee'
    else:
        owners, name, exact = [backends.cudnn, backends.cuda.matmul], 'allow_tf32', False
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, exact)
        yield
    finally:
        for owner, value in zip(owners, before):
            setattr(owner, name, value)
