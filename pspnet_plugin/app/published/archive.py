"""The files in archives, read one by one without unpacking them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from ..errors import DataError

LARGEST = 1 << 29  # bytes of a file in these archives, and of what it unpacks to
BROKEN = (
    *(OSError, EOFError, RuntimeError, ValueError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
)


class Member(NamedTuple):
    """A file in an archive."""

    archive: Path  # the file or folder that holds it
    path: str  # its name there, with ``/`` between folders
    open: Callable[[], Any]  # opens it for reading bytes

    def __str__(self) -> str:
        return f'{self.path} in {self.archive}'

    def read(self) -> bytes:
        """Its content; raises DataError where it is damaged, encrypted or far too large."""
        try:
            with self.open() as file:
                return self.content(file)
        except BROKEN as error:
            raise DataError(f'{self}: cannot be read ({error})') from error

    def content(self, file: Any) -> bytes:
        """All that can be read from ``file``, which unpacks this one."""
        content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise DataError(
                f'{self}: has more than {LARGEST >> 20} MB; it is not what was published'
            )
        return content


@contextmanager
def open_archives(archives: Sequence[Path], scratch: Path) -> Iterator[list[Member]]:
    """All files in zip and tar archives, or in folders with what was in them.

    Args:
        scratch: folder for a file without a name, with what is in a compressed tar archive, which
            would be unpacked from its start again for each file in it.

    Raises:
        DataError: an archive is missing, is none, or names a file outside of itself.
    """
    with ExitStack() as stack:
        members: list[Member] = []
        for archive in archives:
            try:
                members += files_in(archive, stack, scratch)
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


def files_in(archive: Path, stack: ExitStack, scratch: Path) -> Iterator[Member]:
    """The files in one archive, which ``stack`` closes; see :func:`open_archives`."""
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
        tar = stack.enter_context(tarfile.TarFile.open(fileobj=unpacked(archive, stack, scratch)))
        for entry in tar:
            if entry.isfile():  # no links and no devices
                yield Member(archive, entry.name, partial(tar.extractfile, entry))
    else:
        raise DataError(
            f'{archive}: is neither a zip nor a tar archive, or only the beginning of one'
        )


def unpacked(archive: Path, stack: ExitStack, scratch: Path) -> IO[bytes]:
    """A tar archive without its compression, which ``stack`` closes."""
    with open(archive, 'rb') as file:
        start = file.read(6)
    kinds: dict[bytes, Any] = {b'\x1f\x8b': gzip.open, b'BZh': bz2.open, b'\xfd7zXZ\0': lzma.open}
    unpack = next((kind for magic, kind in kinds.items() if start.startswith(magic)), None)
    if unpack is None:
        return stack.enter_context(open(archive, 'rb'))
    plain = stack.enter_context(tempfile.TemporaryFile(dir=scratch))  # noqa: SIM115
    with unpack(archive, 'rb') as packed:
        shutil.copyfileobj(packed, plain, 1 << 20)
    plain.seek(0)
    return plain


def matching(members: Iterable[Member], pattern: str) -> dict[tuple[str, ...], Member]:
    """The files whose path ends with ``pattern``, by what its groups hold."""
    expression = re.compile(rf'(?:.*/)?{pattern}')
    found = ((expression.fullmatch(member.path), member) for member in members)
    return {match.groups(): member for match, member in found if match}
