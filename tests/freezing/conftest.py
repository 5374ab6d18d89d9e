"""What several tests of this folder need."""

from __future__ import annotations

import functools

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import amp


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """mmengine's AmpOptimWrapper with torch's scaler and float16 for the CPU, unknown to it."""
    if not hasattr(torch.amp, 'GradScaler'):  # torch < 2.3
        return
    scaler = functools.partial(torch.amp.GradScaler, 'cpu')
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', scaler)
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp, 'autocast', functools.partial(torch.autocast, 'cpu'))
    assert OPTIM_WRAPPERS.get('AmpOptimWrapper') is amp_optimizer_wrapper.AmpOptimWrapper
