"""The memory format of a model's weights, and the way back for a model that does not run in it."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, Callable

import torch
from mmengine.runner import BaseLoop
from torch import nn

from .steps import replace_step
from .trial import remember_random_states


def set_memory_format(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Convert every tensor of four dimensions; the weights of 3-d convolutions stay as they are."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=memory_format)


def fall_back_once(
    loop: BaseLoop, model: nn.Module, name: str, tell: Callable[[Exception], None]
) -> None:
    """Do the next ``model.NAME(batch, ...)`` again, with contiguous weights, if it fails.

    The batch, buffers, gradients and random states are for the second call as for the first. If it
    fails too, the first error is raised.

    Args:
        loop: the one that calls it; when that ends, or after the call, the step is as it was.
        name: of a step, such as ``'train_step'``.
        tell: called with the error of a step that succeeds contiguous.
    """
    step = getattr(model, name)
    runs = getattr(step, '__self__', model)  # another one where FoldBatchNormHook has a folded copy

    def first(batch: Any, **kwargs: Any) -> Any:
        put_back()
        again, restore = copy.deepcopy(batch), _remember(runs)
        try:
            return step(batch, **kwargs)
        except RuntimeError as failure:
            error = failure
        restore()
        for module in (model, runs):
            set_memory_format(module, torch.contiguous_format)
        try:
            result = step(again, **kwargs)
        except Exception:
            raise error from None
        tell(error)
        return result

    put_back = replace_step(loop, model, name, first)


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
