"""Mixed precision without a GPU: bfloat16 in the forward pass, float32 weights."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from pspnet_plugin.speed.cpu_amp import bfloat16_on_this_cpu

CPUINFO = Path('/proc/cpuinfo')


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


@pytest.mark.parametrize(
    ('capabilities', 'said'),
    [
        ({'amx_bf16': True, 'avx512_bf16': True}, 'by AMX.'),
        ({'amx_bf16': False, 'avx512_bf16': True}, 'by AVX512-BF16.'),
        ({'amx_bf16': False, 'avx512_bf16': False}, 'neither AMX nor AVX512-BF16: '),
        ({'neon': True, 'bf16': True}, 'by BF16.'),
        (None, 'not known'),
    ],
)
def test_the_fastest_instructions_that_torch_knows_of_are_named(monkeypatch, capabilities, said):
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    else:
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities, raising=False)
    assert said in bfloat16_on_this_cpu()


@pytest.mark.skipif(not CPUINFO.exists(), reason='this system does not list them')
def test_this_cpu_is_said_to_have_what_its_system_lists():
    listed = re.findall(r'\b(amx_bf16|avx512_bf16|bf16)\b', CPUINFO.read_text())
    said = bfloat16_on_this_cpu()
    assert bool(listed) == ('computes bfloat16 by' in said) or 'not known' in said
