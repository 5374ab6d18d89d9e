"""Small decode heads, and the results in which one is compared with another."""

from __future__ import annotations

import torch

BN = {'type': 'BN'}
HOOK_KINDS = ('forward_hook', 'forward_pre_hook', 'full_backward_hook', 'full_backward_pre_hook')
SMALL = {'in_channels': 6, 'channels': 4, 'num_classes': 3, 'norm_cfg': BN, 'dropout_ratio': 0}


def run(head, x):
    """The head's output, and the gradients of x and of every parameter for one random gradient."""
    x = x.detach().clone().requires_grad_()
    out = head([x])
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    out.backward(gradient.to(out.dtype))
    results = {'output': out.detach(), 'x': x.grad}
    results.update((name, parameter.grad) for name, parameter in head.named_parameters())
    return results


def assert_equal_results(ours, stock, tolerance=1e-10):
    assert ours.keys() == stock.keys()
    for name, expected in stock.items():
        error = (ours[name] - expected).abs().max()
        assert error <= tolerance * expected.abs().max(), name
