"""A ``ConvModule`` that keeps its convolution's result for the backward pass, and no other map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops.recomputed import not_keeping, recomputed
from ..ops.tracing import is_recorded, is_transformed
from .convolutions import Pyramid
from .modified_modules import is_hooked, runs_as_written

# Without parameters or random numbers.
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU)


def convolve(
    module: ConvModule,
    x: Tensor | Pyramid,
    above: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """``module(x)``, with a coarser map upsampled and added to it.

    In training with batch norm, the convolution's result is kept for the backward pass, and what
    norm, activation and sum return is computed again from it. Running statistics change once, in
    the forward pass. As always, all is kept with other norms and activations, with batch norm over
    several processes (``SyncBN``), with hooks on the module, its norm or its activation, in eval
    mode, and under a compiler or a function transform.

    Args:
        x: (N, C, H, W), or a pyramid if the convolution takes one.
        above: (N, O, h, w).
        align_corners: of the upsampling, as in ``F.interpolate``.

    Returns:
        (N, O, H, W).
    """

    def add_above(out: Tensor, above: Tensor | None) -> Tensor:
        if above is None:
            return out
        return out + F.interpolate(above, out.shape[2:], None, 'bilinear', align_corners)

    maps = x.maps if isinstance(x, Pyramid) else (x,)
    if not (_only_autograd_watches(maps[0]) and _can_recompute(module)):
        return add_above(module(x), above)
    with not_keeping(maps):
        convolved = module.conv(x)
    norm, eps = module.norm, module.norm.eps

    def activate(normalized: Tensor) -> Tensor:
        # Nobody else has seen this map, and on CPUs new memory takes most of an activation's time.
        in_place = type(module.activate) is nn.ReLU
        return normalized.relu_() if in_place else module.activate(normalized)

    def finish(convolved: Tensor, above: Tensor | None, *_: Tensor | None) -> Tensor:
        return add_above(activate(norm(convolved)), above)

    def finish_again(
        convolved: Tensor, above: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        normalized = F.batch_norm(convolved, None, None, weight, bias, training=True, eps=eps)
        return add_above(activate(normalized), above)

    return recomputed(finish, finish_again, convolved, above, norm.weight, norm.bias)


def _only_autograd_watches(x: Tensor) -> bool:
    if not torch.is_grad_enabled() or is_recorded(x) or is_transformed(x):
        return False
    return x.device.type == 'cpu'  # elsewhere memory is cheaper than reading it once more


def _can_recompute(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution, a batch norm of this process and a known activation."""
    return (
        isinstance(module, ConvModule)
        and runs_as_written(module, ConvModule)
        and module.order == ('conv', 'norm', 'act')
        and not module.with_explicit_padding
        and module.with_norm
        and module.with_activation
        and runs_as_written(module.norm, _BatchNorm)
        and module.norm.training
        and type(module.activate) in ACTIVATIONS
        and not is_hooked(module.activate)
    )
