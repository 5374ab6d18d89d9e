"""Random feature maps, the stock arithmetic that ours is compared with, and what operations do."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

LAYOUTS = {'contiguous': torch.contiguous_format, 'channels-last': torch.channels_last}
sizes = st.integers(1, 70)
layouts = st.sampled_from(list(LAYOUTS.values()))


def random_map(*shape, layout=torch.contiguous_format, dtype=torch.float64, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).to(memory_format=layout).requires_grad_()


def assert_same(ours, stock, tolerance=1e-10):
    assert ours.shape == stock.shape
    assert ours.dtype == stock.dtype
    assert (ours - stock).abs().max() <= tolerance * stock.abs().max()


def assert_same_with_gradients(ours, stock, inputs):
    """Outputs agree, and so do the gradients of all inputs, for one random gradient.

    That lies in memory as our output does, as it would where another layer follows.
    """
    assert_same(ours, stock)
    gradient = torch.empty_like(ours).copy_(random_map(*stock.shape, seed=1)).detach()
    for a, b in zip(
        torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(stock, inputs, gradient)
    ):
        assert_same(a, b)


def stock_conv(x, levels, weight, bias, align_corners):
    size = x.shape[2:]
    upsampled = [
        F.interpolate(level, size, mode='bilinear', align_corners=align_corners) for level in levels
    ]
    padding = [k // 2 for k in weight.shape[2:]]
    return F.conv2d(torch.cat([x, *upsampled], dim=1), weight, bias, padding=padding)


class LargestTensor(TorchDispatchMode):
    """The elements of the largest memory that any operation returns, but for those of ``known``.

    It sees the operations that PyTorch is asked for, not what a CPU's library does within one.
    """

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    elements = storage.nbytes() // tensor.element_size()
                    self.elements = max(self.elements, elements)
        return result


class Convolutions(TorchDispatchMode):
    """The weight shapes of all forward convolutions that PyTorch is asked for."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.weights.append(tuple(args[1].shape))
        return func(*args, **(kwargs or {}))
