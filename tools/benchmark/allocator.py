"""What glibc's allocator does with freed memory; nothing happens where another C library runs."""

from __future__ import annotations

import ctypes

from pspnet_plugin.speed.memory import M_MMAP_MAX, M_TRIM_THRESHOLD

# glibc's default, and what it raises its trim threshold to once a block of 32 MiB has been freed.
DEFAULT_MMAP_MAX = 65536
RAISED_TRIM_THRESHOLD = 64 << 20


def stop_keeping_freed_memory() -> None:
    """Undo the plugin's ``keep_freed_memory``: hand freed memory back to the system again."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        mallopt(M_TRIM_THRESHOLD, RAISED_TRIM_THRESHOLD)
        return_free_pages()


def return_free_pages() -> None:
    """Give the heap's free pages back to the system, so that using them again counts as growth."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)
