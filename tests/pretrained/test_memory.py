"""What loading holds in memory beside the module: the file, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pspnet_plugin.pretrained import load_pretrained


def save(kind: str, content: dict, folder: Path) -> Path:
    if kind == 'safetensors':
        safetensors.torch.save_file(content, folder / 'weights.safetensors')
        return folder / 'weights.safetensors'
    torch.save(content, folder / 'weights.pth', _use_new_zipfile_serialization=kind == 'zip')
    return folder / 'weights.pth'


def peak_of(trace: Path) -> int:
    """The most bytes that torch had allocated or mapped at once, from a trace of its profiler."""
    events = [e for e in json.loads(trace.read_text())['traceEvents'] if e['name'] == '[memory]']
    held, peak = 0, 0
    for event in sorted(events, key=lambda event: event['ts']):
        held += event['args']['Bytes']
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('kind', ['zip', 'old pickle', 'safetensors'])
def test_loading_holds_no_second_copy_of_the_checkpoint(tmp_path, kind, dtype):
    module = nn.ParameterList(torch.zeros(256, 512) for _ in range(8))
    content = {name: torch.full_like(t, 0.5, dtype=dtype) for name, t in module.named_parameters()}
    file = save(kind, content, tmp_path)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        assert load_pretrained(module, str(file)).coverage == 1
    profile.export_chrome_trace(str(tmp_path / 'trace.json'))
    size, largest = file.stat().st_size, 4 * module[0].numel()
    # torch 2.1 converts in a copy of a tensor. Below the file's size nothing would be counted.
    assert 0.9 * size < peak_of(tmp_path / 'trace.json') < 1.1 * (size + largest)
