"""How a single image and its gradient lie in memory, which PyTorch's batch norm mistakes on CPUs.

The stride of a batch dimension of one says nothing about memory, and views leave any number there.
Where it is too small, PyTorch's kernels take a channels-last map for a contiguous one, and read it
in the wrong order: docs/compat.md has the exact condition.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .memory_format import is_channels_last
from .tracing import is_recorded


def regular(x: Tensor) -> Tensor:
    """x, (N, C, H, W), whose batch stride is the regular one if it is a single image on a CPU.

    Its gradient, and the gradients of that, get the memory format of x and regular strides too.
    """
    if is_recorded(x) or x.device.type != 'cpu' or x.shape[0] != 1:
        return x
    return _Regular.apply(x)


class _Regular(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        _, *strides = x.stride()
        image = max(size * stride for size, stride in zip(x.shape[1:], strides))
        return x.as_strided(x.shape, (image, *strides))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        last = is_channels_last(inputs[0])
        ctx.format = torch.channels_last if last else torch.contiguous_format

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Regular.apply(grad.contiguous(memory_format=ctx.format))
