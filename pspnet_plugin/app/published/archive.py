"""The files in archives, read one by one without unpacking them."""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import DataError

BROKEN = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error)


class Member(NamedTuple):
    """A file in an archive."""

    archive: Path  # the file or folder that holds it
    path: str  # its name there, with ``/`` between folders
    open: Callable[[], Any]  # opens it for reading bytes

    def __str__(self) -> str:
        return f'{self.path} in {self.archive}'

    def read(self) -> bytes:
        """Its content; raises DataError where it is damaged or encrypted."""
        try:
            with self.open() as file:
                return file.read()
        except BROKEN as error:
            raise DataError(f'{self}: cannot be read ({error})') from error


@contextmanager
def open_archives(archives: Sequence[Path]) -> Iterator[list[Member]]:
    """All files in zip and tar archives, or in folders with what was in them.

    Raises:
        DataError: an archive is missing, is none, or names a file outside of itself.
    """
    with ExitStack() as stack:
        members: list[Member] = []
        for archive in archives:
            try:
                members += files_in(archive, stack)
            except BROKEN as error:
                raise DataError(f'{archive}: cannot be read ({error})') from error
        for member in members:
            path = PurePosixPath(member.path)
            if path.is_absolute() or '..' in path.parts:
                raise DataError(
                    f'{member.archive}: holds {member.path}, a path outside of the archive; it is '
                    'not what was published'
                )
        yield members


def files_in(archive: Path, stack: ExitStack) -> Iterator[Member]:
    """The files in one archive, which ``stack`` closes."""
    if not archive.exists():
        raise DataError(f'{archive}: no such file')
    if archive.is_dir():
        for path in sorted(archive.rglob('*')):
            if path.is_file():
                name = path.relative_to(archive).as_posix()
                yield Member(archive, name, partial(open, path, 'rb'))
    elif zipfile.is_zipfile(archive):
        zipped = stack.enter_context(zipfile.ZipFile(archive))
        for info in zipped.infolist():
            if not info.is_dir():
                yield Member(archive, info.filename.replace('\\', '/'), partial(zipped.open, info))
    elif tarfile.is_tarfile(archive):
        tar = stack.enter_context(tarfile.TarFile.open(archive))
        for entry in tar:
            if entry.isfile():  # no links and no devices
                yield Member(archive, entry.name, partial(tar.extractfile, entry))
    else:
        raise DataError(
            f'{archive}: is neither a zip nor a tar archive, or only the beginning of one'
        )


def matching(members: Iterable[Member], pattern: str) -> dict[tuple[str, ...], Member]:
    """The files whose path ends with ``pattern``, by what its groups hold."""
    expression = re.compile(rf'(?:.*/)?{pattern}')
    found = ((expression.fullmatch(member.path), member) for member in members)
    return {match.groups(): member for match, member in found if match}
