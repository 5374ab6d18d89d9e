"""The tags of TIFF files, which tell of their pixels what decoders leave out or alter."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import TiffImagePlugin

from ..errors import ImageError

STARTS = (b'II*\0', b'MM\0*', b'II+\0')  # the last is BigTIFF
KIND, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
ORIENTATION, SAMPLES, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT = 274, 277, 284, 338, 339
PIXEL_SCALE, TIE_POINT, GDAL_NODATA = 33550, 33922, 42113
PARTS = ((273, 279), (324, 325))  # offsets and numbers of bytes, of strips and of tiles
ALPHA, GREY = {1, 2}, 1  # extra samples that are alpha; the photometric of no colours
OF_OTHERS = 1 | 4  # the kinds of pages that are a smaller copy or a mask of another

Tags = Mapping[int, Any]


def tiff_pages(file: BinaryIO) -> list[Tags]:
    """The tags of each page of a TIFF, by their numbers; nothing for another file.

    Raises:
        ValueError: a part of the file is missing.
    """
    file.seek(0)
    header = file.read(8)
    if header[:4] not in STARTS:
        return []
    header += file.read(8) if header[:4] == STARTS[2] else b''
    pages: list[Tags] = []
    seen: set[int] = set()
    try:
        page = TiffImagePlugin.ImageFileDirectory_v2(header)
        while page.next and page.next not in seen:
            seen.add(page.next)
            file.seek(page.next)
            page = TiffImagePlugin.ImageFileDirectory_v2(header)
            page.load(file)
            pages.append(page)
        end = max(end_of(page) for page in pages if page[WIDTH] and page[HEIGHT])
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ValueError('its directory cannot be read') from error
    if end > file.seek(0, 2):
        raise ValueError('pixels are missing at its end')
    return pages


def end_of(page: Tags) -> int:
    """The number of bytes up to the end of the pixels of a page."""
    strips, tiles = PARTS
    offsets, counts = strips if strips[0] in page else tiles
    return max(map(sum, zip(page[offsets], page.get(counts, ()))), default=0)


def bits(page: Tags) -> int:
    """How many bits a value has."""
    return max(page.get(BITS, (1,)))


def declared_nodata(page: Tags) -> float | None:
    """The value that GDAL takes for no data; None where the file declares none."""
    with contextlib.suppress(ValueError):  # of what is no number
        return float(str(page.get(GDAL_NODATA)).rstrip('\0'))
    return None


def lie_apart(corners: Sequence[float], others: Sequence[float]) -> bool:
    """Whether two GeoTIFFs say that they show two places: their corners differ by over a pixel.

    Args:
        corners, others: of :func:`corners_of`.
    """
    if not (corners and others):
        return False
    *_, width, height = corners
    return max(abs(a - b) for a, b in zip(corners, others)) > max(width, height)


def corners_of(pages: Sequence[Tags]) -> tuple[float, ...]:
    """Left, top, right, bottom of a GeoTIFF, and width and height of a pixel; empty if unsaid."""
    page: Tags = pages[0] if pages else {}
    scale, tie = (np.ravel(page.get(tag, ())) for tag in (PIXEL_SCALE, TIE_POINT))
    if len(scale) < 2 or len(tie) < 5:
        return ()
    (width, height), (column, row, _, x, y) = scale[:2], tie[:5]
    left, top = x - column * width, y + row * height
    right, bottom = left + page[WIDTH] * width, top - page[HEIGHT] * height
    return left, top, right, bottom, width, height


def is_mixed_by_opencv(page: Tags) -> bool:
    """Whether bands of more than 8 bits stand apart, of which OpenCV mixes up the pixels."""
    return page.get(PLANES, 1) == 2 and page.get(SAMPLES, 1) > 1 and bits(page) > 8


def is_cut_by_opencv(page: Tags) -> bool:
    """Whether OpenCV reads the first of several bands alone: of those that are no colours."""
    bands = page.get(SAMPLES, 1) - bool(ALPHA & {*page.get(EXTRA_SAMPLES, ())})
    return bands > 1 and page.get(PHOTOMETRIC) == GREY and bits(page) <= 16


def require_one_page(pages: list[Tags], name: str) -> None:
    """Raise ImageError for several pages of one size, of which readers of images take the first."""
    sizes = [(page[WIDTH], page[HEIGHT]) for page in pages if not page.get(KIND, 0) & OF_OTHERS]
    count = sizes.count(sizes[0]) if sizes else 1
    if count > 1:
        raise ImageError(name, f'has {count} pages: write each as a file of its own.')
