"""Whether a video file is whole, by what its container says of its own length.

How many frames a container promises is no proof: for a variable rate, and for fragments, it is an
estimate.
"""

from __future__ import annotations

from typing import BinaryIO

from ...errors import ImageError

BOXES = (b'ftyp', b'moov', b'mdat', b'free', b'skip', b'wide')  # how MP4 and QuickTime begin
MATROSKA = b'\x1a\x45\xdf\xa3'


def require_whole_video(path: str) -> bool:
    """Raise ImageError for a video whose end is missing.

    Returns:
        Whether the file holds the exact number of its frames.
    """
    with open(path, 'rb') as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(8)
        if not start:
            raise ImageError(path, 'the file is empty.')
        counted = True
        if start[4:] in BOXES:
            end, counted = end_of_boxes(file, size)
        elif start[:4] == b'RIFF':
            end = end_of_chunks(file, size)
        else:
            end, counted = (end_of_matroska(file) if start[:4] == MATROSKA else 0), False
    if end > size:
        raise ImageError(path, f'is cut: {size} of {end} bytes are there.')
    return counted


def end_of_boxes(file: BinaryIO, size: int) -> tuple[int, bool]:
    """Where the last box of an MP4 file ends, and that none is a fragment."""
    end, kinds = 0, set()
    while end < size:
        file.seek(end)
        header = file.read(16)
        length = int.from_bytes(header[:4], 'big')
        if length == 1:
            length = int.from_bytes(header[8:16], 'big')
        kinds.add(header[4:8])
        if length < 8:  # 0: up to the end of the file
            break
        end += length
    return end, b'moof' not in kinds


def end_of_chunks(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk of an AVI file ends; large files have several."""
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(8)
        if header[:4] != b'RIFF':
            break
        end += 8 + int.from_bytes(header[4:8], 'little')
    return end


def end_of_matroska(file: BinaryIO) -> int:
    """Where the segment of a Matroska file ends; 0 where it does not say so, as live ones."""
    file.seek(4)
    length, _ = variable_number(file)
    file.seek(length + 4, 1)  # the header, and the name of the segment
    length, is_known = variable_number(file)
    return file.tell() + length if is_known else 0


def variable_number(file: BinaryIO) -> tuple[int, bool]:
    """A number of one to eight bytes, whose first one tells how many, and that it is known."""
    first = int.from_bytes(file.read(1), 'big')
    more = 8 - first.bit_length()
    bits = 7 * (more + 1)
    number = int.from_bytes(bytes([first]) + file.read(more), 'big') & ((1 << bits) - 1)
    return number, number != (1 << bits) - 1
