"""Zip files, as torch has saved since version 1.6: whether they are whole, how they are packed."""

from __future__ import annotations

import zipfile
from pathlib import Path

# torch.save writes entries as they are. A file that was zipped again is smaller than its content,
# where this holds trained weights by a tenth. One that takes this many times its size when it is
# unpacked was made to fill the memory.
LARGEST_RATIO = 3
HARMLESS = 1 << 24  # bytes


def is_zip(path: Path) -> bool:
    """Whether a file has the directory of a zip file at its end."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it has one that says impossible things
        return False


def fault_of(path: Path) -> str | None:
    """What is wrong with a zip file, as the end of a sentence about it; None where nothing is.

    The sizes are compared with that of the file before anything is unpacked. Then each entry is
    compared with its checksum, which torch does not look at: 0.1 s for 100 MB. A file that was
    saved without any, see ``torch.serialization.set_crc32_options``, goes without.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
            if unpacked > max(LARGEST_RATIO * size, HARMLESS):
                return (
                    f'has {size:,} bytes and would take {unpacked:,} unpacked. If you made it, '
                    'unpack it and zip it without compression.'
                )
            damaged = archive.testzip() if any(entry.CRC for entry in entries) else None
    except PermissionError:
        raise
    except Exception as error:  # zipfile reports a broken file in a dozen ways
        return f'is damaged ({type(error).__name__}: {error}).'
    return f'is damaged: the checksum of {damaged} in it does not agree.' if damaged else None


def has_checksums(path: Path) -> bool:
    """Whether a whole zip file was saved with checksums."""
    with zipfile.ZipFile(path) as archive:
        return any(entry.CRC for entry in archive.infolist())


def is_compressed(path: Path) -> bool:
    """Whether an entry of a whole zip file must be unpacked, so that it cannot be mapped."""
    with zipfile.ZipFile(path) as archive:
        return any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
