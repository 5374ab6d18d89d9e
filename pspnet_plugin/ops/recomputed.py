"""Maps that the backward pass computes again, from less memory than they take themselves.

A normalized and activated map costs little time to compute and as much memory to keep as what a
convolution returns. :func:`recomputed` makes such a map and keeps the tensors that it is made of;
in a block of :func:`not_keeping`, an operation that would save the map for its own backward pass
gets it computed again too. Both share one computation for each backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .precision import current_autocast

Function = Callable[..., Tensor]


def recomputed(function: Function, again: Function, *tensors: Tensor | None) -> Tensor:
    """``function(*tensors)``, of which nothing but ``tensors`` is kept for the backward pass.

    Args:
        function: is called once, now, and may have effects, such as new running statistics.
        again: returns the same in the backward pass, without effects; it runs under the autocast
            of now, and may change none of its arguments.
        tensors: all that need a gradient.
    """
    return _Recomputed.apply(function, again, *tensors)


def not_keeping(maps: Iterable[Tensor]) -> AbstractContextManager:
    """A block whose operations do not keep those of ``maps`` that :func:`recomputed` returned.

    If there are any, ``saved_tensors_hooks`` around the block do not see what else it keeps.

    Raises:
        RuntimeError: in the backward pass, if another tensor that the operations keep was changed
            in place since; torch itself does not watch over tensors with hooks.
    """
    nodes = {
        _memory(x): x.grad_fn for x in maps if isinstance(x.grad_fn, _Recomputed._backward_cls)
    }
    if not nodes:
        return nullcontext()

    def pack(tensor: Tensor) -> _Kept | _View:
        node = nodes.get(_memory(tensor))
        if node is None:
            return _Kept(tensor.detach(), tensor._version)
        return _View(node, tensor.size(), tensor.stride(), tensor.storage_offset())

    return saved_tensors_hooks(pack, lambda packed: packed.unpack())


class _Kept(NamedTuple):
    """A tensor as autograd keeps it, with the count of in-place changes at that time."""

    tensor: Tensor
    version: int

    def unpack(self) -> Tensor:
        if self.tensor._version != self.version:
            raise RuntimeError(
                f'A tensor of shape {tuple(self.tensor.shape)} that the backward pass needs was '
                'changed in place after the forward pass: call backward() before that.'
            )
        return self.tensor


class _View(NamedTuple):
    """A view of the map that ``node`` computes again."""

    node: Any
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt

    def unpack(self) -> Tensor:
        _, result = _compute_again(self.node)
        return result.detach().as_strided(self.size, self.stride, self.offset)


def _memory(x: Tensor) -> int:
    """The same for all views of one piece of memory, while it lives."""
    return x.untyped_storage()._cdata


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(function: Function, again: Function, *tensors: Tensor | None) -> Tensor:
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.function, *tensors = inputs
        ctx.autocast, ctx.result = current_autocast(output.device.type), None
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        create_graph = torch.is_grad_enabled()
        if create_graph:
            # Views, because one tensor may be made of another, and no gradient goes through it.
            tensors = [x if x is None else x[...] for x in ctx.saved_tensors]
            with ctx.autocast():
                result = ctx.function(*tensors)
        else:
            tensors, result = _compute_again(ctx)
        ctx.result = None
        needed = ctx.needs_input_grad[2:]
        wanted = [x for x, needs in zip(tensors, needed) if x is not None and needs]
        found = iter(torch.autograd.grad(result, wanted, grad, create_graph=create_graph))
        return None, None, *(next(found) if needs else None for needs in needed)


def _compute_again(node: Any) -> tuple[list[Tensor | None], Tensor]:
    """Copies of the tensors that ``node`` keeps, and their result with a graph from them alone."""
    if node.result is None:
        tensors = [
            None if x is None else x.detach().requires_grad_(x.requires_grad)
            for x in node.saved_tensors
        ]
        with torch.enable_grad(), node.autocast():
            node.result = tensors, node.function(*tensors)
    return node.result
