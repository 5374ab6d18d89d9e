"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

KEPT = 50  # characters of a name that stand in that of its unfinished file; names have 255 bytes
UNFINISHED = f'*.{"[0-9a-f]" * 8}.part*'  # a pattern of the names of unfinished files


@contextlib.contextmanager
def write_whole(path: str | Path, mode: str, **options: Any) -> Iterator[IO[Any]]:
    """As ``open``, but the file has its name when all of it is on the disk, and not before.

    The folders above it are made. An OSError names the file.
    """
    with replaced_when_whole(path) as part, open(part, mode, **options) as file:
        yield file


@contextlib.contextmanager
def replaced_when_whole(path: str | Path, suffix: str = '.part') -> Iterator[str]:
    """The same for what opens files by itself: a name to write to, which ends in ``suffix``.

    No other process writes to that name. One that is killed leaves the unfinished file behind.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    part = os.path.join(folder, f'{name[:KEPT]}.{secrets.token_hex(4)}{suffix}')
    try:
        os.makedirs(folder, exist_ok=True)
        yield part
        with open(part, 'rb+') as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(part)
        if isinstance(error, OSError) and error.filename in (None, part):
            error.filename, error.filename2 = path, None
        raise
