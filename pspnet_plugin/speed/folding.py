"""Batch norm folded into the convolution before it, in a copy of a model.

Which convolution feeds which batch norm is observed while an example goes through the network; the
names and the order of modules do not always tell.
"""

from __future__ import annotations

import copy
from collections import Counter
from functools import partial
from itertools import chain
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from ..errors import PspnetPluginError

# The largest difference of an output relative to its largest value. Folding changes rounding errors
# alone; a model that cannot be folded differs by far more.
TOLERANCE = 1e-2


class FoldingError(PspnetPluginError):
    """A model's outputs are not the same with its batch norms folded."""


@torch.no_grad()
def fold_batch_norms(model: nn.Module, run: Callable[[nn.Module], object]) -> tuple[nn.Module, int]:
    """A copy of ``model`` in eval mode without the batch norms that follow a convolution.

    The copy shares every other parameter and buffer with ``model``, which stays as it is.

    Args:
        run: calls the model that it is given on one example and returns a tensor or a nest of them.

    Returns:
        The copy, and how many batch norms were folded.

    Raises:
        FoldingError: the outputs before and after folding differ.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    folded = copy.deepcopy(model, shared)
    folded.eval()  # Not chained: mmseg's backbones return None.
    pairs, expected = find_pairs(folded, run)
    for conv, norm in pairs:
        _fold(folded, conv, norm)
    for before, after in zip(_tensors(expected), _tensors(run(folded))):
        # Written so that a NaN is refused too.
        if not (after - before).abs().max() <= TOLERANCE * before.abs().max():
            raise FoldingError(
                'The model gives other results with its batch norms folded into its convolutions: '
                'a convolution in it uses its weight in a way of its own. Leave FoldBatchNormHook '
                'out of this run.'
            )
    return folded, len(pairs)


def find_pairs(
    model: nn.Module, run: Callable[[nn.Module], object]
) -> tuple[list[tuple[str, str]], object]:
    """The names of convolutions and batch norms to fold, in pairs, and what ``run`` returned.

    A pair can be folded if both are called once, the batch norm uses running statistics, and it is
    the only operation that reads the tensor that the convolution returns.
    """
    flow, handles = _DataFlow(), []
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            handles.append(module.register_forward_hook(partial(flow.after_conv, name)))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(partial(flow.before_norm, name)))
    try:
        with flow:
            output = run(model)
    finally:
        for handle in handles:
            handle.remove()
    return flow.pairs(), output


class _DataFlow(TorchDispatchMode):
    """Records which batch norm reads which convolution's output, and who else reads that."""

    def __init__(self) -> None:
        super().__init__()
        # By id, the convolution and its output, which is kept so that no other tensor gets its id.
        self.outputs: dict[int, tuple[str, Tensor]] = {}
        self.inputs: list[tuple[int, str]] = []  # id of the input, batch norm
        self.reads: Counter[int] = Counter()  # by id of the output
        self.calls: Counter[str] = Counter()  # by name of the module

    def after_conv(self, name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.calls[name] += 1
        self.outputs[id(output)] = (name, output)

    def before_norm(self, name: str, module: nn.Module, inputs: tuple) -> None:
        self.calls[name] += 1
        self.inputs.append((id(inputs[0]), name))

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        leaves, _ = tree_flatten((args, kwargs))
        self.reads.update({id(leaf) for leaf in leaves if id(leaf) in self.outputs})
        return func(*args, **(kwargs or {}))

    def pairs(self) -> list[tuple[str, str]]:
        found = [(self.outputs[i][0], norm) for i, norm in self.inputs if self.reads[i] == 1]
        return [pair for pair in found if all(self.calls[name] == 1 for name in pair)]


def _fold(model: nn.Module, conv_name: str, norm_name: str) -> None:
    conv: Any = model.get_submodule(conv_name)
    norm: Any = model.get_submodule(norm_name)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
        transpose=conv.transposed,
    )
    parent, _, child = norm_name.rpartition('.')
    setattr(model.get_submodule(parent), child, nn.Identity())


def _tensors(output: object) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
