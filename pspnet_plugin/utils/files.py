"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def write_whole(path: str | Path, mode: str, **options: Any) -> Iterator[IO[Any]]:
    """As ``open``, but the file has its name when all of it is on the disk, and not before.

    The folders above it are made. An OSError names the file.
    """
    with replaced_when_whole(path) as part, open(part, mode, **options) as file:
        yield file


@contextlib.contextmanager
def replaced_when_whole(path: str | Path, suffix: str = '.part') -> Iterator[str]:
    """The same for what opens files by itself: a name to write to, which ends in ``suffix``."""
    path = os.path.realpath(path)
    part = f'{path}{suffix}'
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        yield part
        with open(part, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(part)
        if isinstance(error, OSError):
            error.filename, error.filename2 = path, None
        raise
