"""Memory of one step kept for the next one, on a CPU."""

from __future__ import annotations

import ctypes

# glibc's names for mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER, NONE = -1, 0


def keep_freed_memory() -> bool:
    """Stop glibc from handing memory back to the system as soon as it is freed.

    By default it returns every block of 32 MiB or more, and the end of its heap, which are most of
    the feature maps of a step. The next step then gets them page by page, each filled with zeros by
    the system: in the training of a PSPNet that was a fifth of the time. Kept memory is used again
    by this process only, whose size stays at its peak. There is no way back but the process's end.
    The first steps may still get new pages: PyTorch asks for aligned blocks, for which glibc looks
    for a little more than their size, so that a block that was freed is not always found again.

    Returns:
        Whether it can be done here; other C libraries and systems are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, NONE) and mallopt(M_TRIM_THRESHOLD, NEVER))
