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


def pickle_protocol(path: Path) -> int:
    """The pickle protocol that a file of ``torch.save`` announces, in either format; 0 for none."""
    start = b''
    if is_zip(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith('/data.pkl'):
                    with archive.open(name) as entry:
                        start = entry.read(2)
    else:
        with open(path, 'rb') as file:
            start = file.read(2)
    return start[1] if len(start) == 2 and start[0] == 0x80 else 0


def reason_of(error: Exception) -> str:
    """An error in one line, without torch's advice to let the file run code."""
    lines = str(error).rpartition('WeightsUnpickler error:')[2].strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
