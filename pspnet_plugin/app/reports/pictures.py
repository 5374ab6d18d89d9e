"""Pictures within a page: images and label maps as small files, in the text of the page."""

from __future__ import annotations

import base64
import io
import math

import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..images.drawing import to_rgb

# Bytes of all pictures before base64 makes a third more of them: the page stays below 50 MB.
ALL_PICTURES = 33_000_000
LARGEST, SMALLEST = 1024, 16  # pixels of the longer side
BYTES_OF_A_PIXEL = 0.12  # about, of a photograph as WebP
QUALITY = 75


def room_for(images: int, maps: int) -> tuple[int, int]:
    """How many bytes the picture of an image may have, and each of its ``maps`` label maps."""
    half = ALL_PICTURES // (2 * images)
    return half, half // maps


def encoded_image(image: np.ndarray, room: int) -> str:
    """An image, (H, W) or (H, W, C) in BGR, as WebP of at most ``room`` bytes, in base64."""
    picture = to_rgb(image)
    side = min(LARGEST, max(picture.shape[:2]), round(math.sqrt(room / BYTES_OF_A_PIXEL)))
    while True:
        small = scaled(picture, side, cv2.INTER_AREA)
        content = file_of(Image.fromarray(small), 'WEBP', quality=QUALITY, method=2)
        if len(content) <= room or side <= SMALLEST:
            return base64.b64encode(content).decode()
        side = side * 3 // 4


def encoded_map(labels: np.ndarray, classes: int, room: int) -> str:
    """A label map, (H, W), as PNG of at most ``room`` bytes, in base64.

    Its pixels are class numbers, the lower 8 bits in red and the higher ones in green; labels that
    are no class have 65535.
    """
    values = np.where(labels < classes, labels, 2**16 - 1).astype(np.uint16)
    side = min(LARGEST, max(values.shape))
    while True:
        small = scaled(values, side, cv2.INTER_NEAREST)
        channels = np.stack([small & 255, small >> 8, small * 0], axis=-1).astype(np.uint8)
        content = file_of(Image.fromarray(channels), 'PNG', compress_level=9)
        if len(content) <= room or side <= SMALLEST:
            return base64.b64encode(content).decode()
        side = side * 3 // 4


def scaled(pixels: np.ndarray, side: int, interpolation: int) -> np.ndarray:
    """``pixels`` with ``side`` as the longer side, where that is smaller."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(pixels, size, interpolation=interpolation) if factor < 1 else pixels


def file_of(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The content of an image file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def encoded_figure(figure: Figure) -> str:
    """A figure as SVG, in base64; names in it are shapes, so none is read as markup."""
    file = io.BytesIO()
    figure.savefig(file, format='svg', metadata={'Date': None})
    return base64.b64encode(file.getvalue()).decode()
