"""What loading holds in memory beside the module: the file, once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from pspnet_plugin.pretrained import load_pretrained
from pspnet_plugin.pretrained.source.read import read_checkpoint
from tests.helpers.torch_features import needs_torch_2_1

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPE = (256, 512)


def save(kind: str, dtype: torch.dtype, folder: Path) -> Path:
    content = {str(i): torch.full(SHAPE, 0.5, dtype=dtype) for i in range(8)}
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


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', ['zip', 'old pickle', 'safetensors'])
def test_loading_holds_no_second_copy_of_the_checkpoint(tmp_path, kind, dtype):
    file = save(kind, dtype, tmp_path)
    module = nn.ParameterList(torch.zeros(SHAPE) for _ in range(8))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        assert load_pretrained(module, str(file)).coverage == 1
    profile.export_chrome_trace(str(tmp_path / 'trace.json'))
    size = file.stat().st_size
    one_of_eight = math.prod(SHAPE) * 4  # torch 2.1 converts in a copy of it
    # Below the size of the file nothing would have been counted.
    assert 0.9 * size < peak_of(tmp_path / 'trace.json') < 1.1 * (size + one_of_eight)


@pytest.mark.skipif(not Path('/proc/self/maps').exists(), reason='Linux lists what is mapped')
@pytest.mark.parametrize(
    'kind',
    [
        pytest.param('zip', marks=needs_torch_2_1('maps no files')),
        'safetensors',
    ],
)
def test_tensors_of_a_file_are_mapped_from_it(tmp_path, kind):
    file = save(kind, torch.float32, tmp_path)
    tensors = read_checkpoint(file).tensors
    lines = [line.split() for line in Path('/proc/self/maps').read_text().splitlines()]
    ranges = [line[0].split('-') for line in lines if line[-1] == str(file)]
    mapped = [range(int(start, 16), int(end, 16)) for start, end in ranges]
    assert len(tensors) == 8
    assert all(any(t.data_ptr() in addresses for addresses in mapped) for t in tensors.values())
