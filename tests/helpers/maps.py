"""Random feature maps, and the stock arithmetic that ours is compared with."""

from __future__ import annotations

import hypothesis.strategies as st
import torch
import torch.nn.functional as F

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
    """Outputs agree, and so do the gradients of all inputs, for one random gradient."""
    assert_same(ours, stock)
    gradient = random_map(*stock.shape, seed=1).detach()
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
