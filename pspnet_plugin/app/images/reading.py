"""The pixels of an image, as mmcv's ``LoadImageFromFile`` reads them, or why there are none.

Decoders return an image for a file that is cut, with the missing part grey, so the end of a file is
looked at first.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import cv2
import mmcv
import requests
from mmengine import fileio
from PIL import Image, ImageOps

from ...errors import ImageError
from ...utils.text import first_line

TIMEOUT = 30  # seconds
# How a whole file ends.
JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
PNG_START, PNG_END = b'\x89PNG', b'IEND\xaeB`\x82'
PNG_MODES = ('1', 'L', 'LA', 'I', 'I;16', 'P', 'RGB', 'RGBA')


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Within this context OpenCV does not print what it cannot read."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def is_address(item: Any) -> bool:
    """Whether an image is named by an address of the web."""
    return isinstance(item, str) and item.startswith(('http://', 'https://'))


def read_bytes(name: str, backend_args: dict | None = None) -> bytes:
    """The content of a file or an address; an ImageError where it cannot be read, or is empty."""
    try:
        if is_address(name) and backend_args is None:
            answer = requests.get(name, timeout=TIMEOUT)
            answer.raise_for_status()
            content = answer.content
        else:
            content = bytes(fileio.get(name, backend_args=backend_args))
    except (OSError, requests.RequestException) as error:
        raise ImageError(name, f'cannot be read ({error}).') from error
    if not content:
        raise ImageError(name, 'the file is empty.')
    return content


def decode(content: bytes, name: str, color_type: str = 'color', backend: str = 'cv2') -> Any:
    """The pixels in the bytes of a file, (H, W, C) or (H, W), as ``LoadImageFromFile`` gives them.

    Raises:
        ImageError: it is no image, or not a whole one.
    """
    require_whole(content, name)
    try:
        pixels = mmcv.imfrombytes(content, flag=color_type, backend=backend)
    except Exception as error:  # each decoder has its own
        raise ImageError(name, f'cannot be decoded ({first_line(error)}).') from error
    if pixels is None:
        start = content[:40]
        is_text = all(byte in b'\t\n\r' or byte >= 32 for byte in start)
        text, digits = start.decode('utf-8', 'replace'), start[:8].hex(' ')
        told = f'the text {text!r}' if is_text else f'the bytes {digits}'
        raise ImageError(name, f'is no image that can be decoded: it begins with {told}.')
    return pixels


def require_whole(content: bytes, name: str) -> None:
    """Raise ImageError for the beginning of an image whose end is missing."""
    if content.startswith(JPEG_START) and content.rstrip(b'\0').endswith(JPEG_END):
        return
    try:
        image = Image.open(io.BytesIO(content))
        # PNG has a checksum for each part, which is faster to look at than its pixels.
        image.verify() if content.startswith(PNG_START) else image.load()
    except Image.UnidentifiedImageError:
        return  # mmcv may know it, or says that it is none.
    except (Image.DecompressionBombError, MemoryError):
        return  # too large for Pillow
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if 'not available' in str(error):  # Pillow was built without this decoder
            return
        raise ImageError(name, f'is cut or broken ({first_line(error)}).') from error
    if content.startswith(PNG_START) and PNG_END not in content[-64:]:
        raise ImageError(name, 'is cut: its end is missing.')


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
