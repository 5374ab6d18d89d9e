"""Disks that are full."""

import contextlib
import resource


@contextlib.contextmanager
def file_size_limit(count):
    """Within this context no file of this process gets longer, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
