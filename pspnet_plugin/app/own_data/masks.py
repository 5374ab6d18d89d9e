"""The values in a mask, as its file has them, and how many pixels have each."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from PIL import Image

from ...errors import ImageError, PredictionError
from ...utils import tiff
from ...utils.rasters import AS_IT_IS, Raster
from ..images.reading import JPEG_START, orientation_of, require_complete, upright
from ..images.sources import RASTER_SUFFIXES

PLAIN_MODES = ('L', 'P', 'I', 'I;16')
EIGHT_BITS = ('LA', 'RGB', 'RGBA', 'CMYK')
HALVED = (
    'has colours or alpha of 16 bits, of which Pillow and MMSegmentation keep 8; write one number '
    'for each pixel, or 8 bits'
)
IN_COLOURS = ('RGBA', 'CMYK', 'PA', 'YCbCr')  # what becomes RGB
NO_NUMBER = int(np.iinfo(np.int32).min)  # stands for NaN, infinities and what is far too large
MOST_VALUES = 256
STRIP = 1 << 20  # pixels
LOSSY = ('.jpg', '.jpeg', '.webp')

Value = tuple[int, ...]  # one number, or red, green and blue


class Mask(NamedTuple):
    """What one look at the file of a mask found."""

    path: Path | str = ''
    values: Counter = Counter()  # how many pixels have each value
    size: tuple[int, int] = (0, 0)  # (height, width) in pixels
    plain: bool = True  # whether mmseg reads the same numbers, as long as they lie within 0 to 255
    mark: int = 0  # how EXIF says that it is stored, 1 (upright) to 8; 0 where nothing is said
    is_lossy: bool = False  # whether it is a JPEG or a lossy WebP
    mode: str = ''  # Pillow's name of its kind of pixels; pspnet check asks for it
    palette: bytes = b''  # red, green and blue of each value, one after the other
    nodata: Value | None = None  # what it declares as such, but 0, the background of many
    corners: tuple[float, ...] = ()  # where it says that it lies on Earth, see tiff.corners_of


class Numbers(NamedTuple):
    """The pixels of a mask."""

    pixels: np.ndarray  # (H, W), whole numbers; a colour is red << 16 | green << 8 | blue
    in_colours: bool
    palette: bytes = b''  # see Mask
    plain: bool = False  # whether Pillow gives mmseg the same numbers

    def value(self, number: int) -> Value:
        """What a number of this mask stands for."""
        return (number >> 16, number >> 8 & 255, number & 255) if self.in_colours else (number,)

    def number(self, value: Value) -> int:
        """The number that stands for a value."""
        return value[0] if len(value) == 1 else value[0] << 16 | value[1] << 8 | value[2]


def read_mask(path: Path, in_colours: bool = False) -> Mask:
    """Look at the file of a mask, once.

    Args:
        in_colours: take grey values and the indices of a palette as colours too.

    Raises:
        ImageError: the file is broken, holds no whole numbers, or more than a mask of classes.
    """
    with open(path, 'rb') as file:
        pages = require_complete(file, str(path))
        mark, compressed = orientation_of(file, unsaid=0), is_lossy(file)
        numbers = read_numbers(file, path, in_colours, mark)
    values = count_values(numbers, MOST_VALUES)
    if len(values) > MOST_VALUES:
        losses = remark_on_losses(path)[2:]
        raise ImageError(
            str(path),
            f'holds more than {MOST_VALUES} {"colours" if numbers.in_colours else "values"}: it '
            'looks like a photo, or numbers objects; are the folders of images and masks swapped?'
            f'{losses and f" Otherwise {losses}"}',
        )
    return Mask(
        path,
        values,
        numbers.pixels.shape,
        plain=numbers.plain and mark < 2,
        mark=mark,
        is_lossy=compressed,
        palette=numbers.palette,
        nodata=nodata_of(pages),
        corners=tiff.corners_of(pages),
    )


def read_numbers(file: BinaryIO, path: Path | str, in_colours: bool, mark: int) -> Numbers:
    """The pixels of a mask, with a number for each, the right way up.

    Args:
        file: the content of ``path``.
        mark: how EXIF says that it is stored.
    """
    pixels, palette, plain = decode_mask(file, Path(path), in_colours)
    if pixels.dtype.kind == 'f':
        pixels = whole_numbers(pixels, path)
    pixels = upright(pixels, mark)
    if pixels.ndim == 2:
        return Numbers(pixels, False, palette, plain)
    require_bands(pixels.shape[2], path)
    if not in_colours and all((strip == strip[..., :1]).all() for strip in strips(pixels)):
        return Numbers(pixels[..., 0], False)
    if pixels.min() < 0 or pixels.max() > 255:
        raise ImageError(str(path), 'has colours beyond 0 to 255; write them with 8 bits')
    packed = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= pixels[..., channel]
    return Numbers(packed, True)


def decode_mask(file: BinaryIO, path: Path, in_colours: bool) -> tuple[np.ndarray, bytes, bool]:
    """The pixels, (H, W) or (H, W, C) RGB, their palette, and whether Pillow gives mmseg the same.

    Args:
        file: the content of ``path``.
    """
    try:
        with Image.open(file) as image:
            stored = str([part[3] for part in image.tile])
            if image.mode in EIGHT_BITS and ';16' in stored:
                raise ImageError(str(path), HALVED)
            if 'LX' in stored:  # a second band that is no alpha
                require_bands(2, path)
            palette = palette_of(image)
            if (in_colours and image.mode in ('1', 'L', 'LA', 'P')) or image.mode in IN_COLOURS:
                return np.asarray(image.convert('RGB')), palette, False
            if image.mode in ('1', 'LA'):
                return np.asarray(image.convert('L')), palette, False
            return pixels_of(image), palette, image.mode in PLAIN_MODES
    except Image.DecompressionBombError as error:
        raise ImageError(str(path), too_large()) from error
    except (OSError, ValueError, SyntaxError) as error:
        if path.suffix.lower() not in RASTER_SUFFIXES:
            return decoded_by_opencv(file, path, error), b'', False
    try:
        with Raster(str(path)) as raster:
            if raster.size[0] * raster.size[1] > largest_mask():
                raise ImageError(str(path), too_large())
            require_bands(len(raster.bands), path)
            bands, _ = raster.read()
    except ImageError:
        raise
    except PredictionError as error:  # rasterio is missing
        raise ImageError(str(path), str(error)) from error
    return (bands[..., 0] if bands.shape[2] == 1 else bands[..., ::-1]), b'', False


def decoded_by_opencv(file: BinaryIO, path: Path, error: Exception) -> np.ndarray:
    """The same of what Pillow cannot decode; ``error`` says why."""
    file.seek(0)
    content = np.frombuffer(file.read(), np.uint8)
    pixels = cv2.imdecode(content, AS_IT_IS | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        told = str(error).replace(repr(file), repr(str(path)))  # as of a file that Pillow opened
        raise ImageError(str(path), f'is no mask that can be decoded ({told})') from error
    return pixels if pixels.ndim == 2 else pixels[..., ::-1]


def palette_of(image: Image.Image) -> bytes:
    """Red, green and blue of each value, one after the other; empty without a palette."""
    return bytes((image.getpalette() or []) if image.mode == 'P' else [])


def pixels_of(image: Image.Image) -> np.ndarray:
    """``np.asarray(image)`` without two more copies of all pixels on the way."""
    width, height = image.size
    pixel = np.asarray(image.crop((0, 0, 1, 1)))
    pixels = np.empty((height, width, *pixel.shape[2:]), pixel.dtype)
    top = 0
    for strip in strips(pixels):
        strip[:] = np.asarray(image.crop((0, top, width, top + len(strip))))
        top += len(strip)
    return pixels


def largest_mask() -> int:
    """How many pixels Pillow reads, by which MMSegmentation reads masks."""
    return 2 * (Image.MAX_IMAGE_PIXELS or sys.maxsize)


def too_large() -> str:
    return (
        f'has more than {largest_mask() // 10**6} megapixels, where Pillow stops, by which '
        'MMSegmentation reads masks; cut image and mask into tiles.'
    )


def require_bands(count: int, path: Path | str) -> None:
    """Raise ImageError for what is neither one number for each pixel nor a colour."""
    if count not in (1, 3):
        raise ImageError(str(path), f'has {count} bands; a mask has one, or colours.')


def nodata_of(pages: list[tiff.Tags]) -> Value | None:
    """What a mask with these pages declares as no data, but 0; None without."""
    try:
        number = int((pages and tiff.declared_nodata(pages[0])) or 0)
    except (ValueError, OverflowError):  # NaN, an infinity
        return None
    return (number,) if number else None


def whole_numbers(pixels: np.ndarray, path: Path | str) -> np.ndarray:
    """Floating-point values as int32, with ``NO_NUMBER`` for what is none."""
    numbers = np.full(pixels.shape, NO_NUMBER, np.int32)
    for strip, target in zip(strips(pixels), strips(numbers)):
        usable = np.abs(strip) < -NO_NUMBER  # neither NaN nor infinite
        target[usable] = strip[usable]
        broken = strip[usable][target[usable] != strip[usable]]
        if broken.size:
            raise ImageError(
                str(path),
                f'holds {broken[0]:g}, which is no whole number; a mask has one for each class. If '
                'these are probabilities, write 1 where they are above 0.5 and 0 elsewhere',
            )
    return numbers


def count_values(mask: Numbers, most: float = np.inf) -> Counter:
    """How many pixels have each value; some of them where there are more values than ``most``."""
    counts: Counter = Counter()
    for strip in strips(mask.pixels):
        flat = strip.ravel()
        # Neighbours are mostly the same, so that few pixels have to be sorted.
        starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
        numbers, which = np.unique(flat[starts], return_inverse=True)
        lengths = np.diff(np.append(starts, flat.size))
        for number, count in zip(numbers.tolist(), np.bincount(which, weights=lengths).tolist()):
            counts[number] += int(count)
        if len(counts) > most:
            break
    return Counter({mask.value(number): count for number, count in counts.items()})


def remark_on_losses(path: Path) -> str:
    """What is to be said of a mask in a format that changes its values."""
    suffix = path.suffix.lower()
    return f'; {suffix} changes what was drawn: write masks as PNG' if suffix in LOSSY else ''


def is_lossy(file: BinaryIO) -> bool:
    """Whether a file is a JPEG or a lossy WebP."""
    file.seek(0)
    start = file.read(16)
    return start.startswith(JPEG_START) or start.endswith(b'WEBPVP8 ')


def traces_of_losses(mask: Mask) -> str:
    """What to say of a mask with more than two values that was compressed with losses."""
    if len(mask.values) < 3 or not mask.is_lossy:
        return ''
    return (
        f'{mask.path}: was compressed with losses and holds {len(mask.values)} values, some of '
        'which are traces of others at edges; write masks as PNG, from what was drawn'
    )


def strips(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Views of (H, W, ...) some rows at a time, about a million pixels each."""
    rows = max(STRIP // max(pixels.shape[1], 1), 1)
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top : top + rows]
