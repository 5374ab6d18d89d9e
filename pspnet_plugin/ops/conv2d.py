"""The convolution that keeps the size of its map, and the choice of how it is computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch_of_one import regular
from .memory_format import is_channels_last
from .precision import autocasts_on_cpu, may_be_finite
from .tracing import is_recorded
from .winograd import conv2d_3x3, pays


def conv2d_same(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.conv2d`` with the zero padding that keeps the map's size, by the fastest way there is.

    Compilers and exporters get the plain convolution, and so does autocast.

    Args:
        x: (N, C, H, W).
        weight: (O, C, k_h, k_w); k_h and k_w are odd.
        bias: (O,).

    Returns:
        (N, O, H, W), channels-last if x is.
    """
    # Sizes come last, because a compiler makes each comparison a condition of its graph.
    if not (is_recorded(x) or autocasts_on_cpu()) and _are_floats_on_cpu(x, weight):
        x = regular(x)
        if pays(x, weight):
            out = conv2d_3x3(x, weight)
            if may_be_finite(out):  # else a tile would spread what is not
                return _add_bias(out, bias)
        elif weight.shape[2:] == (1, 1) and x.is_contiguous() and not is_channels_last(x):
            # PyTorch's convolution would bring x into another memory format, and the result back.
            out = torch.bmm(weight.flatten(1).expand(len(x), -1, -1), x.flatten(2))
            return _add_bias(out.view(len(x), len(weight), *x.shape[2:]), bias)
    return F.conv2d(x, weight, bias, padding=[k // 2 for k in weight.shape[2:]])


def _are_floats_on_cpu(x: Tensor, weight: Tensor) -> bool:
    return x.device.type == 'cpu' and x.dtype == weight.dtype in (torch.float32, torch.float64)


def _add_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out.add_(bias.view(-1, 1, 1))
