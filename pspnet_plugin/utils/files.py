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
    with name_when_whole(path) as part, open(part, mode) as file:
        yield file


@contextlib.contextmanager
def name_when_whole(path: str | Path, suffix: str = '.part') -> Iterator[str]:
    """The name of a file to write in place of ``path``, whose name it then gets.

    Args:
        suffix: what is added to the name meanwhile.
    """
    path = os.path.realpath(path)
    part = f'{path}{suffix}'
    try:
        yield part
        with open(part, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise
