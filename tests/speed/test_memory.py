"""Memory that is kept: what was freed is used again, after a few steps without any new page."""

import ctypes

import pytest

from pspnet_plugin.speed import memory
from tests.helpers.processes import run_python

PROGRAM = """
import resource, runpy, torch
conv, maps = torch.nn.Conv2d(16, 64, 3), torch.randn(10, 16, 128, 128)
def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    conv(maps).relu().sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = min(new_pages() for _ in range(5))
kept = runpy.run_path({file!r})['keep_freed_memory']()
print(kept, usual, min(new_pages() for _ in range(5)))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='needs glibc')
def test_a_step_of_training_takes_the_pages_that_the_one_before_it_freed():
    code, output = run_python('-c', PROGRAM.format(file=memory.__file__))
    assert code == 0, output
    kept, usual, later = output.split()
    assert kept == 'True'
    assert int(usual) > 1000
    assert int(later) < int(usual) / 10


def test_it_says_where_the_c_library_cannot(monkeypatch):
    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: object())
    assert not memory.keep_freed_memory()
