"""The pixels of an image, as mmcv's ``LoadImageFromFile`` reads them, or why there are none.

Decoders return an image for a file that is cut, with the missing part grey, and some refuse files
that are whole: what a file says of its own length is looked at first.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import cv2
import numpy as np
import requests
from mmengine import fileio
from PIL import Image, ImageOps

from ...errors import ImageError
from ...utils.rasters import rasterio
from ...utils.text import first_line
from ...utils.tiff import Tags, is_cut_by_opencv, is_mixed_by_opencv, require_one_page, tiff_pages

TIMEOUT = 30  # seconds
JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
PNG_START = b'\x89PNG'
EXIF_ORIENTATION = 0x0112
SEVERAL = 'has several images: write each as a file of its own.'
PNG_MODES = ('1', 'L', 'LA', 'I', 'I;16', 'P', 'RGB', 'RGBA')


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Within this context OpenCV does not print what it cannot read."""
    log = getattr(cv2.utils, 'logging', cv2)  # OpenCV 5 or 4
    level = log.getLogLevel()
    log.setLogLevel(0)
    try:
        yield
    finally:
        log.setLogLevel(level)


def is_address(item: Any) -> bool:
    """Whether an image is named by an address of the web."""
    return isinstance(item, str) and item.startswith(('http://', 'https://'))


def read_bytes(name: str, backend_args: dict | None = None) -> bytes:
    """The content of a file or an address; an ImageError where it cannot be read."""
    try:
        if is_address(name) and backend_args is None:
            answer = requests.get(name, timeout=TIMEOUT)
            answer.raise_for_status()
            content = answer.content
        else:
            content = bytes(fileio.get(name, backend_args=backend_args))
    except (OSError, requests.RequestException) as error:
        raise ImageError(name, f'cannot be read ({error}).') from error
    return content


def decode(content: bytes, name: str, color_type: str = 'color', backend: str = 'cv2') -> Any:
    """The pixels in the bytes of a file, (H, W, C) or (H, W), as ``LoadImageFromFile`` gives them.

    Raises:
        ImageError: it is no image, or not a whole one.
    """
    pages = require_whole(content, name)
    if pages and backend == 'cv2' and is_mixed_by_opencv(pages[0]):
        raise ImageError(name, 'has its bands apart, which OpenCV mixes up: use LoadRaster.')
    if pages and backend == 'cv2' and is_cut_by_opencv(pages[0]):
        raise ImageError(
            name,
            'has bands that are not marked as colours, of which OpenCV reads the first alone: use '
            'LoadRaster, or save it with PHOTOMETRIC=RGB.',
        )
    import mmcv  # and with it torch, which the statistics of images do without

    problem = None
    others = [] if backend == 'tifffile' else ['pillow']  # which orders channels in another way
    for each in dict.fromkeys([backend, *others]):
        try:
            if each != backend and color_type != 'unchanged':
                require_eight_bits(content)
            pixels = mmcv.imfrombytes(content, flag=color_type, backend=each)
        except Exception as error:  # each decoder has its own
            problem = problem or error
        else:
            if pixels is not None:
                return pixels
    if not isinstance(problem, (Image.UnidentifiedImageError, type(None))):
        raise ImageError(name, f'cannot be decoded ({first_line(problem)}).') from problem
    start = content[:40]
    is_text = all(byte in b'\t\n\r' or byte >= 32 for byte in start)
    text, digits = start.decode('utf-8', 'replace'), start[:8].hex(' ')
    told = f'the text {text!r}' if is_text else f'the bytes {digits}'
    raise ImageError(name, f'is no image that can be decoded: it begins with {told}.')


def require_eight_bits(content: bytes) -> None:
    """Raise ValueError for an image of which Pillow would cut values off to make them 8 bits."""
    with Image.open(io.BytesIO(content)) as image:
        if image.mode.startswith(('F', 'I')):
            raise ValueError('its values are no 8 bits; read them as they are, by LoadRaster')


def require_whole(content: bytes, name: str) -> list[Tags]:
    """Raise ImageError for a file of which a part is missing or broken, or of several images.

    Returns:
        The tags of the page of a TIFF.
    """
    file = io.BytesIO(content)
    pages = require_complete(file, name)
    if not pages:
        return pages
    try:  # OpenCV returns something for whatever is broken within a TIFF.
        Image.open(file).load()
    except (Image.UnidentifiedImageError, Image.DecompressionBombError, MemoryError):
        return pages
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if not read_by_gdal(content):
            raise ImageError(name, f'is cut or broken ({first_line(error)}).') from error
    return pages


def require_complete(file: BinaryIO, name: str) -> list[Tags]:
    """Raise ImageError for a file whose end is missing, or of several images.

    PNG and TIFF tell where they end; what is within a TIFF is not looked at.

    Returns:
        The tags of the page of a TIFF.
    """
    if not file.seek(0, 2):
        raise ImageError(name, 'the file is empty.')
    file.seek(max(0, file.tell() - 64))
    end, _ = file.read(), file.seek(0)
    start = file.read(4)
    file.seek(0)
    if start.startswith(JPEG_START) and end.rstrip(b'\0').endswith(JPEG_END):
        return []
    if start == PNG_START:
        require_whole_png(file, name)
        return []
    pages = pages_of(file, name)
    if not pages:
        require_whole_for_pillow(file, name)
    return pages


def require_whole_png(file: BinaryIO, name: str) -> None:
    """Raise ImageError where a PNG lacks its end, has broken pixels, or is an animation."""
    for kind, content in png_chunks(file, name):
        is_needed = kind[:1].isupper()
        if is_needed and zlib.crc32(kind + content[:-4]) != int.from_bytes(content[-4:], 'big'):
            raise ImageError(name, 'is cut or broken: the checksum of its pixels is another.')
        if kind == b'acTL' and int.from_bytes(content[:4], 'big') > 1:
            raise ImageError(name, SEVERAL)


def png_chunks(file: BinaryIO, name: str) -> Iterator[tuple[bytes, bytes]]:
    """The kinds of the parts of a PNG, and what is in them, with the checksum at the end."""
    file.seek(8)
    kind = b''
    while kind != b'IEND':
        header = file.read(8)
        length, kind = struct.unpack('>I4s', header) if len(header) == 8 else (0, b'')
        content = file.read(length + 4)
        if len(content) != length + 4:
            raise ImageError(name, 'is cut or broken: its end is missing.')
        yield kind, content


def pages_of(file: BinaryIO, name: str) -> list[Tags]:
    """The tags of the one page of a TIFF, nothing for another file; or an ImageError."""
    try:
        pages = tiff_pages(file)
    except ValueError as error:
        raise ImageError(name, f'is cut or broken: {error}.') from error
    require_one_page(pages, name)
    return pages


def require_whole_for_pillow(file: BinaryIO, name: str) -> None:
    """Raise ImageError where Pillow knows the format, but misses something, or sees many images."""
    file.seek(0)
    try:
        image = Image.open(file)
        if image.format != 'MPO' and getattr(image, 'is_animated', False):
            raise ImageError(name, SEVERAL)
        image.load()
    except Image.UnidentifiedImageError:
        return  # mmcv may know it, or says that it is none.
    except (Image.DecompressionBombError, MemoryError):
        return  # too large for Pillow
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if 'not available' in str(error):  # Pillow was built without this decoder
            return
        file.seek(0)
        if read_by_gdal(file.read()):
            return
        raise ImageError(name, f'is cut or broken ({first_line(error)}).') from error


def read_by_gdal(content: bytes) -> bool:
    """Whether GDAL, where it is installed, reads all of a raster."""
    if rasterio is None:
        return False
    try:
        with rasterio.MemoryFile(content) as memory, memory.open() as file:
            return all(file.read(band) is not None for band in file.indexes)
    except rasterio.errors.RasterioError:
        return False


def orientation_of(file: BinaryIO, unsaid: int = 1) -> int:
    """How EXIF says that an image is stored, 1 (upright) to 8, where OpenCV turns it upright.

    Pillow's own answer counts what OpenCV does not, such as XMP, and decodes a PNG for it.
    """
    file.seek(0)
    try:
        image = Image.open(file)
        if image.format == 'TIFF':  # read upright anyway
            return 1
        found = image.info.get('exif', b'') if image.format in ('JPEG', 'MPO', 'WEBP') else b''
        if image.format == 'PNG':
            parts = png_chunks(file, str(image))
            found = next((content for kind, content in parts if kind == b'eXIf'), b'')
        exif = Image.Exif()
        exif.load(found)
        marked = exif.get(EXIF_ORIENTATION, unsaid)
    except (ImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return unsaid
    return marked if marked in range(1, 9) else unsaid


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """A view of (H, W, ...), stored as EXIF says, the right way up."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def encode(image: Image.Image, name: str) -> bytes:
    """A Pillow image as the bytes of a PNG file, upright, so that it is read as its file is."""
    content = io.BytesIO()
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode == 'F':
            raise ImageError(name, 'has floating-point pixels: convert it to 8 or 16 bits.')
        image = image if image.mode in PNG_MODES else image.convert('RGB')
        image.save(content, 'PNG', compress_level=1)
    except (OSError, ValueError) as error:  # Pillow reads a file when its pixels are asked for
        raise ImageError(name, f'cannot be decoded ({first_line(error)}).') from error
    return content.getvalue()
