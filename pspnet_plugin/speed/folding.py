"""Batch norm folded into the convolution before it, in a copy of a model.

Which convolution feeds which batch norm is observed while examples go through the network; the
names and the order of modules do not always tell.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from ..errors import PspnetPluginError
from .trial import copy_without_hooks, full_precision, has_hooks, share_hooks, trial

# Classes whose forward is known to be one convolution, or one batch norm and then the modules
# `drop` and `act` where it has them. A subclass may do something else.
CONVOLUTIONS = {
    *(f'torch.nn.modules.conv.Conv{d}d' for d in (1, 2, 3)),
    *(f'torch.nn.modules.conv.ConvTranspose{d}d' for d in (1, 2, 3)),
    'mmcv.cnn.bricks.wrappers.Conv2d',
    'mmcv.cnn.bricks.conv2d_adaptive_padding.Conv2dAdaptivePadding',
    'timm.layers.conv2d_same.Conv2dSame',
    *(f'pspnet_plugin.heads.convolutions.{kind}Conv2d' for kind in ('Pyramid', 'Same')),
}
NORMS = {
    *(f'torch.nn.modules.batchnorm.BatchNorm{d}d' for d in (1, 2, 3)),
    'torch.nn.modules.batchnorm.SyncBatchNorm',
    'mmengine.model.utils._BatchNormXd',
    'mmengine.utils.dl_utils.parrots_wrapper.SyncBatchNorm',
    'timm.layers.norm_act.BatchNormAct2d',
    'timm.layers.norm_act.SyncBatchNormAct',
}

# Times the square root of the data type's resolution: 1e-4 in float32. Folding changes rounding
# errors alone.
TOLERANCE = 0.3
# A channel smaller than this part of the median channel is compared with that part.
SMALL_CHANNEL = 1e-2

Run = Callable[[nn.Module], object]
Pair = tuple[nn.Module, nn.Module]


class FoldingError(PspnetPluginError):
    """A model's outputs are not the same with its batch norms folded."""


@torch.no_grad()
def fold_batch_norms(model: nn.Module, *runs: Run) -> tuple[nn.Module, int]:
    """A copy of ``model`` in eval mode without the batch norms that follow a convolution.

    The copy shares parameters and hooks with ``model`` and has its own buffers. ``model`` is not
    run, and stays as it is; its hooks are not called here. Folded are modules of known classes that
    no hook looks at. A batch norm that ends in an activation leaves that behind.

    Args:
        runs: each calls the model that it is given on one example and returns a tensor or a nest of
            them. Examples of several sizes find out what depends on the size.

    Returns:
        The copy, and how many batch norms were folded.

    Raises:
        FoldingError: the outputs before and after folding differ.
        CopyError: a copy of the model would run the model itself.
    """
    folded = copy_without_hooks(model, list(model.parameters()))
    folded.eval()  # Not chained: mmseg's backbones return None.
    modules, copies = list(model.modules()), list(folded.modules())
    hooked = [copied for module, copied in zip(modules, copies) if has_hooks(module)]
    pairs: list[Pair] = []
    if any(_is_norm(module) for module in copies):
        with trial(model), full_precision():
            observed = [find_pairs(folded, run, hooked) for run in runs]
            pairs = [pair for pair in observed[0][0] if all(pair in found for found, _ in observed)]
            _fold(folded, pairs)
            for run, (_, expected) in zip(runs, observed):
                _compare(expected, run(folded))
    share_hooks(modules, copies)
    return folded, len(pairs)


def find_pairs(model: nn.Module, run: Run, hooked: list[nn.Module]) -> tuple[list[Pair], object]:
    """The convolutions and batch norms to fold, in pairs, and what ``run`` returned.

    A batch norm can be folded into a convolution if

    - each of the two is called once,
    - the batch norm uses its running statistics, and
    - nobody else reads the tensor that goes from the one to the other. The hooks of the ``hooked``
      modules read what goes in and what comes out of these.
    """
    flow, handles = _DataFlow(), []
    for module in hooked:
        handles.append(
            module.register_forward_pre_hook(lambda _, *read: flow.read(read), with_kwargs=True)
        )
    for module in model.modules():
        if _is_known(module, CONVOLUTIONS):
            handles.append(module.register_forward_hook(flow.after_conv))
        elif _is_norm(module):
            handles.append(module.register_forward_pre_hook(flow.before_norm))
    for module in hooked:  # Behind after_conv, so that it knows the output.
        handles.append(module.register_forward_hook(lambda _, __, output: flow.read(output)))
    try:
        with flow:
            output = run(model)
    finally:
        for handle in handles:
            handle.remove()
    flow.read(output)
    pairs = [
        (conv, norm)
        for conv, between, norm in flow.pairs
        if flow.calls[conv] == flow.calls[norm] == 1
        and not norm.training
        and flow.reads[id(between)] == 1
    ]
    return pairs, output


class _DataFlow(TorchDispatchMode):
    """Records which batch norm reads which convolution's output, and who else reads that."""

    def __init__(self) -> None:
        super().__init__()
        # By id, the convolution and its output, which is kept so that no other tensor gets its id.
        self.outputs: dict[int, tuple[nn.Module, Tensor]] = {}
        # Convolution, its output, and the batch norm that reads it.
        self.pairs: list[tuple[nn.Module, Tensor, nn.Module]] = []
        self.reads: Counter[int] = Counter()  # by id of the output
        self.calls: Counter[nn.Module] = Counter()

    def after_conv(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.calls[module] += 1
        self.outputs[id(output)] = (module, output)

    def before_norm(self, module: nn.Module, inputs: tuple) -> None:
        self.calls[module] += 1
        if inputs and id(inputs[0]) in self.outputs:
            self.pairs.append((*self.outputs[id(inputs[0])], module))

    def read(self, values: object) -> None:
        """Count one reader of every convolution's output among ``values``."""
        leaves = {id(leaf) for leaf in tree_flatten(values)[0]}
        self.reads.update(leaves & self.outputs.keys())

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        self.read((args, kwargs))
        return func(*args, **(kwargs or {}))


def _is_known(module: nn.Module, classes: set[str]) -> bool:
    cls = type(module)
    known = f'{cls.__module__}.{cls.__qualname__}' in classes
    return known and not {'forward', '_conv_forward'} & vars(module).keys()


def _is_norm(module: nn.Module) -> bool:
    return _is_known(module, NORMS) and module.running_mean is not None


def _fold(model: nn.Module, pairs: list[Pair]) -> None:
    remaining: dict[nn.Module, nn.Module] = {}
    conv: Any
    norm: Any
    for conv, norm in pairs:
        moments = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, *moments, transpose=conv.transposed
        )
        kept = [getattr(norm, name) for name in ('drop', 'act') if hasattr(norm, name)]
        remaining[norm] = nn.Sequential(*kept) if kept else nn.Identity()
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in remaining:
                setattr(parent, name, remaining[child])


def _compare(expected: object, actual: object) -> None:
    """Raise a FoldingError unless both are equal but for rounding, each channel for itself."""
    pairs = list(zip(_tensors(expected), _tensors(actual)))
    if not pairs:
        raise FoldingError('The model returns no tensor to compare, so nothing is folded.')
    for before, after in pairs:
        if before.dim() > 1:  # a row for each channel
            before, after = (x.transpose(0, 1).flatten(1) for x in (before, after))
        else:
            before, after = before.reshape(1, -1), after.reshape(1, -1)
        scale = before.abs().amax(1)
        scale = torch.maximum(scale, SMALL_CHANNEL * scale.median())
        difference = (after - before).abs().amax(1)
        tolerance = TOLERANCE * torch.finfo(before.dtype).eps ** 0.5
        # Written so that a NaN is refused too.
        wrong = ~(difference <= tolerance * scale)
        if wrong.any():
            channel = int(wrong.nonzero()[0])
            raise FoldingError(
                'The model gives other results with its batch norms folded into its convolutions: '
                f'channel {channel} of its output differs by {difference[channel]:.2g} where its '
                f'largest value is {before[channel].abs().max():.2g}. Something in it uses the '
                'weight of a convolution in a way of its own.'
            )


def _tensors(output: object) -> list[Tensor]:
    leaves = tree_flatten(output)[0]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
