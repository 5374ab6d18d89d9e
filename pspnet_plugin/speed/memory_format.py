"""The memory format of a model's weights, and whether the model runs in it."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, Callable

import torch
from torch import Tensor, nn

from .trial import CopyError, copy_without_hooks, trial

Step = Callable[[nn.Module, Any], object]


def set_memory_format(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Convert every tensor of four dimensions; the weights of 3-d convolutions stay as they are."""
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=memory_format)


def memory_format_error(model: nn.Module, batch: Any, step: Step) -> Exception | None:
    """The error of ``step`` on a copy of ``model`` and ``batch`` that a contiguous one has not."""
    try:
        with trial(model):
            step(copy_without_hooks(model), copy.deepcopy(batch))
    except CopyError:
        return None  # It cannot be tried.
    except Exception as failure:
        error = failure
    else:
        return None
    try:
        with trial(model):
            contiguous = copy_without_hooks(model)
            set_memory_format(contiguous, torch.contiguous_format)
            step(contiguous, copy.deepcopy(batch))
    except Exception:
        return None  # The memory format is not the cause: the run itself will say what is.
    return error


class OneStep:
    """Stands for an optimizer wrapper: computes the gradients of a loss and changes nothing."""

    def __init__(self, optim_context: Callable, model: nn.Module) -> None:
        self.optim_context = optim_context
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def update_params(self, loss: Tensor) -> None:
        """Compute the gradients of ``loss``."""
        torch.autograd.grad(loss, self._parameters, allow_unused=True)
