"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def write_whole(path: str | Path, mode: str) -> Iterator[IO[Any]]:
    """As ``open``, but the file has its name when all of it is on the disk, and not before."""
    path = os.path.realpath(path)
    part = f'{path}.part'
    try:
        with open(part, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise
