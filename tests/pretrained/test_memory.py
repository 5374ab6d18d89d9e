"""What loading adds to the peak memory."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from tests.helpers.processes import run_python

# In a process of its own: this one has memory to reuse. The code that a first load brings into
# memory, some 10 MB whatever the size of the file, is there before.
MEASURE = """
import os
import sys
import torch
from pspnet_plugin.pretrained import load_pretrained

def module(*shape):
    return torch.nn.ParameterList(torch.zeros(shape) for _ in range(8))

def high_water():
    with open('/proc/self/status') as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith('VmHWM'))

torch.set_num_threads(1)
for small, large in zip(sys.argv[1::2], sys.argv[2::2]):
    if os.fork() == 0:
        load_pretrained(module(2, 2), small)
        target = module(1024, 2048)
        with open('/proc/self/clear_refs', 'w') as clear:
            clear.write('5')  # the high-water mark is now what is in use
        before = high_water()
        load_pretrained(target, large)
        print('added', high_water() - before, flush=True)
        os._exit(0)
    os.wait()
"""


def save_all(shape: tuple[int, int], folder: Path) -> list[Path]:
    """One file for each format and precision."""
    folder.mkdir()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        content = {str(i): torch.full(shape, 0.5, dtype=dtype) for i in range(8)}
        torch.save(content, folder / f'{dtype}.pth')
        torch.save(content, folder / f'{dtype}_old.pth', _use_new_zipfile_serialization=False)
        safetensors.torch.save_file(content, folder / f'{dtype}.safetensors')
    return sorted(folder.iterdir())


def test_loading_adds_at_most_1_2_times_the_size_of_the_checkpoint(tmp_path):
    small, large = save_all((2, 2), tmp_path / 'small'), save_all((1024, 2048), tmp_path / 'large')
    pairs = [file for pair in zip(small, large) for file in pair]
    code, output = run_python('-c', MEASURE, *pairs)
    added = [int(line.split()[1]) for line in output.splitlines() if line.startswith('added')]
    assert (code, len(added)) == (0, 9), output
    for file, more in zip(large, added):
        # Mapped pages count as well, so that nothing at all would be a mistake of the measurement.
        assert 0.5 * file.stat().st_size < more <= 1.2 * file.stat().st_size, file
