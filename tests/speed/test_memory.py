"""Memory that is kept: what the system counts in a process of its own."""

import ctypes

import pytest

from tests.helpers.processes import run_python

FAULTS = """
import resource, torch
from pspnet_plugin.speed.memory import keep_freed_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(4, 2048, 64, 64)  # 128 MiB, 32768 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(1)
print('before', faults(4))
assert keep_freed_memory()
faults(8)
print('after', faults(4))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='needs glibc')
def test_freed_pages_are_found_again():
    code, output = run_python('-c', FAULTS)
    assert code == 0, output[-4000:]
    counts = dict(line.split() for line in output.splitlines()[-2:])
    assert int(counts['before']) > 4 * 30000
    assert int(counts['after']) < 1000


def test_other_c_libraries_are_left_alone():
    code, output = run_python(
        '-c',
        'from pspnet_plugin.speed import memory; memory.ctypes.CDLL = lambda name: object()\n'
        'print(memory.keep_freed_memory())',
    )
    assert code == 0, output[-4000:]
    assert output.splitlines()[-1] == 'False'
