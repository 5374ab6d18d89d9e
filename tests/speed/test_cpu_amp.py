"""Mixed precision without a GPU: bfloat16 in the forward pass, float32 weights."""

import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

import pspnet_plugin  # noqa: F401  registers


def test_forward_pass_is_bfloat16_and_the_update_that_of_torchs_autocast():
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Conv2d(3, 4, 3))
    ours, theirs = models
    images = torch.randn(2, 3, 8, 8)
    wrapper = OPTIM_WRAPPERS.build(
        {'type': 'CpuAmpOptimWrapper', 'optimizer': torch.optim.SGD(ours.parameters(), lr=0.1)}
    )
    with wrapper.optim_context(ours):
        outputs = ours(images)
    assert outputs.dtype == torch.bfloat16
    wrapper.update_params(outputs.float().square().mean())

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = theirs(images)
    outputs.float().square().mean().backward()
    optimizer.step()
    assert ours.weight.dtype == torch.float32
    assert torch.equal(ours.weight, theirs.weight)
