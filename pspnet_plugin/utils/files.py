"""Files that are whole or not there, and files that one process holds."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import PspnetPluginError

if sys.platform == 'win32':
    import msvcrt
else:
    import fcntl
KEPT = 50  # characters of a name that stand in that of its unfinished file; names have 255 bytes
UNFINISHED = f'*.{"[0-9a-f]" * 8}.part*'  # a pattern of the names of unfinished files


@contextlib.contextmanager
def write_whole(path: str | Path, mode: str, **options: Any) -> Iterator[IO[Any]]:
    """As ``open``, but the file has its name when all of it is on the disk, and not before.

    The folders above it are made. An OSError names the file.
    """
    with replaced_when_whole(path) as part, open(part, mode, **options) as file:
        yield file


def write_text(path: str | Path, text: str) -> None:
    """Write a file of text in UTF-8, whole or not at all; see :func:`write_whole`."""
    with write_whole(path, 'w', encoding='utf-8') as file:
        file.write(text)


@contextlib.contextmanager
def replaced_when_whole(path: str | Path, suffix: str = '.part') -> Iterator[str]:
    """The same for what opens files by itself: a name to write to, which ends in ``suffix``.

    No other process writes to that name. One that is killed leaves the unfinished file behind.
    """
    path = os.path.realpath(path)
    folder, name = os.path.split(path)
    part = os.path.join(folder, f'{name[:KEPT]}.{secrets.token_hex(4)}{suffix}')
    try:
        with contextlib.suppress(FileExistsError):  # a file, as opening it says better
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


@contextlib.contextmanager
def without_leftovers(folder: Path, *patterns: str) -> Iterator[None]:
    """Remove what killed processes have left in ``folder``, but not within this context of another.

    Where folders cannot be locked, on Windows and some network drives, nothing is removed.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            locked = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, locked)  # which ends the lock, as the end of the process does
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in [path for pattern in patterns for path in folder.glob(pattern)]:
                    remove = shutil.rmtree if path.is_dir() else os.remove
                    remove(path)
            fcntl.flock(locked, fcntl.LOCK_SH)
        yield


def require_own(path: str | Path, mark: str) -> None:
    """Raise PspnetPluginError for a file that is there without what its command leaves in it."""
    if os.path.isfile(path) and mark.encode() not in Path(path).read_bytes():
        raise PspnetPluginError(
            f'--out {path}: is there already, and not from this command; name another file'
        )


def held_alone(path: str | Path) -> IO[Any] | None:
    """Open a file that this process holds until it closes it or ends, also where it is killed.

    Workers that it has forked hold nothing.

    Returns:
        None where another process holds it.
    """
    file = open(path, 'a')  # noqa: SIM115  the caller closes it
    try:
        if sys.platform == 'win32':
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # others: a file system without locks
            file.close()
            return None
    return file
