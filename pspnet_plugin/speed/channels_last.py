"""The memory format of a model's weights, and the way back for a model that does not run in it."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, Callable

import torch
from torch import nn

from .trial import remember_random_states


def set_memory_format(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Convert every tensor of four dimensions; the weights of 3-d convolutions stay as they are."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=memory_format)


def fall_back_once(model: nn.Module, name: str, tell: Callable[[Exception], None]) -> None:
    """Do the next ``model.NAME(batch, ...)`` again, with contiguous weights, if it fails.

    The batch, buffers, gradients and random states are for the second call as for the first. If it
    fails too, the first error is raised.

    Args:
        name: of a step, such as ``'train_step'``; after its next call it is the model's own again.
        tell: called with the error of a step that succeeds contiguous.
    """
    replaced, step = vars(model).get(name), getattr(model, name)

    def first(batch: Any, **kwargs: Any) -> Any:
        if replaced is None:
            delattr(model, name)
        else:  # as torch.compile does
            setattr(model, name, replaced)
        again, restore = copy.deepcopy(batch), _remember(model)
        try:
            return step(batch, **kwargs)
        except RuntimeError as failure:
            error = failure
        restore()
        set_memory_format(model, torch.contiguous_format)
        try:
            result = step(again, **kwargs)
        except Exception:
            raise error from None
        tell(error)
        return result

    setattr(model, name, first)


def _remember(model: nn.Module) -> Callable[[], None]:
    """What undoes a step that failed before it changed a parameter."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    restore_random_states = remember_random_states(model)

    @torch.no_grad()
    def restore() -> None:
        for buffer, value in buffers:
            buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        restore_random_states()

    return restore
