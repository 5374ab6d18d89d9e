"""Memory that is kept: what the C library is told."""

import ctypes
import types

import pytest

from pspnet_plugin.speed import memory
from tests.helpers.processes import run_python


def c_library(answer, calls):
    """A C library whose ``mallopt`` notes its arguments and returns ``answer``."""
    return types.SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments) or answer)


def test_blocks_come_from_the_heap_whose_end_is_never_returned(monkeypatch):
    calls = []
    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: c_library(1, calls))
    assert memory.keep_freed_memory()
    # -4 is M_MMAP_MAX and -1 M_TRIM_THRESHOLD in glibc's malloc.h; mallopt(3) gives the values.
    assert sorted(calls) == [(-4, 0), (-1, -1)]


@pytest.mark.parametrize('library', [c_library(0, []), object()], ids=['refuses', 'has no mallopt'])
def test_it_says_when_memory_cannot_be_kept(library, monkeypatch):
    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: library)
    assert not memory.keep_freed_memory()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='needs glibc')
def test_glibc_accepts_it():
    program = f'import runpy; print(runpy.run_path({memory.__file__!r})["keep_freed_memory"]())'
    assert run_python('-c', program) == (0, 'True\n')
