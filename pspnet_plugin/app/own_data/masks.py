"""The values in a mask, as its file has them, and how many pixels have each."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ...errors import ImageError, PredictionError
from ...utils import tiff
from ...utils.rasters import AS_IT_IS, Raster, read_raster
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
    """A mask that has been read."""

    numbers: np.ndarray  # (H, W), whole numbers; a colour is red << 16 | green << 8 | blue
    in_colours: bool
    plain: bool  # whether mmseg reads the same numbers, as long as they lie within 0 to 255
    was_turned: bool = False  # whether the file was stored turned, as EXIF says

    def value(self, number: int) -> Value:
        """What a number of this mask stands for."""
        return (number >> 16, number >> 8 & 255, number & 255) if self.in_colours else (number,)

    def number(self, value: Value) -> int:
        """The number that stands for a value."""
        return value[0] if len(value) == 1 else value[0] << 16 | value[1] << 8 | value[2]


def read_mask(path: Path, in_colours: bool = False) -> Mask:
    """Read a mask.

    Args:
        in_colours: give colours for grey values and for the indices of a palette too.

    Raises:
        ImageError: the file is broken, or holds no whole numbers.
    """
    with open(path, 'rb') as file:
        require_complete(file, str(path))
        orientation = orientation_of(file)
    mask = as_numbers(*decode_mask(path, in_colours), path, in_colours)
    if orientation == 1:
        return mask
    return Mask(upright(mask.numbers, orientation), mask.in_colours, False, True)


def as_numbers(pixels: np.ndarray, plain: bool, path: Path, in_colours: bool) -> Mask:
    """A mask of what was decoded, (H, W) or (H, W, C) RGB."""
    if pixels.dtype.kind == 'f':
        pixels, plain = whole_numbers(pixels, path), False
    if pixels.ndim == 2:
        return Mask(pixels, False, plain)
    require_bands(pixels.shape[2], path)
    if not in_colours and all((strip == strip[..., :1]).all() for strip in strips(pixels)):
        return Mask(pixels[..., 0], False, False)
    if pixels.min() < 0 or pixels.max() > 255:
        raise ImageError(str(path), 'has colours beyond 0 to 255; write them with 8 bits')
    packed = pixels[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= pixels[..., channel]
    return Mask(packed, True, False)


def decode_mask(path: Path, in_colours: bool) -> tuple[np.ndarray, bool]:
    """The pixels, (H, W) or (H, W, C) RGB, and whether Pillow gives mmseg the same ones."""
    try:
        with Image.open(path) as file:
            plain = file.mode in PLAIN_MODES
            stored = str([part[3] for part in file.tile])
            if file.mode in EIGHT_BITS and ';16' in stored:
                raise ImageError(str(path), HALVED)
            if 'LX' in stored:  # a second band that is no alpha
                require_bands(2, path)
            if (in_colours and file.mode in ('1', 'L', 'LA', 'P')) or file.mode in IN_COLOURS:
                return np.asarray(file.convert('RGB')), False
            if file.mode in ('1', 'LA'):
                return np.asarray(file.convert('L')), False
            return pixels_of(file), plain
    except Image.DecompressionBombError as error:
        raise ImageError(str(path), too_large()) from error
    except (OSError, ValueError, SyntaxError) as error:
        if path.suffix.lower() not in RASTER_SUFFIXES:
            flags = AS_IT_IS | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.fromfile(path, np.uint8), flags)
            if pixels is None:
                raise ImageError(str(path), f'is no mask that can be decoded ({error})') from error
            return (pixels if pixels.ndim == 2 else pixels[..., ::-1]), False
    try:
        with Raster(str(path)) as raster:
            (height, width), count = raster.size, len(raster.bands)
        if height * width > largest_mask():
            raise ImageError(str(path), too_large())
        require_bands(count, path)
        bands, _ = read_raster(str(path))
    except ImageError:
        raise
    except PredictionError as error:  # rasterio is missing
        raise ImageError(str(path), str(error)) from error
    return (bands[..., 0] if bands.shape[2] == 1 else bands[..., ::-1]), False


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


def require_bands(count: int, path: Path) -> None:
    """Raise ImageError for what is neither one number for each pixel nor a colour."""
    if count not in (1, 3):
        raise ImageError(str(path), f'has {count} bands; a mask has one, or colours.')


def nodata_of(path: Path) -> Value | None:
    """What a mask declares as no data, but 0, which is the background of many; None without."""
    try:
        with open(path, 'rb') as file:
            pages = tiff.tiff_pages(file)
        number = int((pages and tiff.declared_nodata(pages[0])) or 0)
    except (ValueError, OverflowError):  # NaN, an infinity
        return None
    return (number,) if number else None


def palette_of(path: Path) -> list[int]:
    """Red, green and blue of each value, one after the other; empty without a palette."""
    try:
        with Image.open(path) as file:
            return (file.getpalette() or []) if file.mode == 'P' else []
    except (OSError, ValueError, SyntaxError):  # read otherwise, see above
        return []


def whole_numbers(pixels: np.ndarray, path: Path) -> np.ndarray:
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


def count_values(mask: Mask, path: Path) -> Counter:
    """How many pixels have each value.

    Raises:
        ImageError: there are more values than a mask of classes can have.
    """
    counts: Counter = Counter()
    for strip in strips(mask.numbers):
        flat = strip.ravel()
        # Neighbours are mostly the same, so that few pixels have to be sorted.
        starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
        numbers, which = np.unique(flat[starts], return_inverse=True)
        lengths = np.diff(np.append(starts, flat.size))
        for number, count in zip(numbers.tolist(), np.bincount(which, weights=lengths).tolist()):
            counts[number] += int(count)
        if len(counts) > MOST_VALUES:
            raise ImageError(str(path), too_many_values(mask, path))
    return Counter({mask.value(number): count for number, count in counts.items()})


def too_many_values(mask: Mask, path: Path) -> str:
    kind = 'colours' if mask.in_colours else 'values'
    losses = remark_on_losses(path)[2:]
    return (
        f'holds more than {MOST_VALUES} {kind}: it looks like a photo, or numbers objects; are the '
        f'folders of images and masks swapped?{losses and f" Otherwise {losses}"}'
    )


def remark_on_losses(path: Path) -> str:
    """What is to be said of a mask in a format that changes its values."""
    suffix = path.suffix.lower()
    return f'; {suffix} changes what was drawn: write masks as PNG' if suffix in LOSSY else ''


def traces_of_losses(path: Path | str, values: int) -> str:
    """What to say of a mask that has this many values where its file is a JPEG or a lossy WebP."""
    try:
        with open(path, 'rb') as file:
            start = file.read(16)
    except OSError:  # an address
        return ''
    if values < 3 or not (start.startswith(JPEG_START) or start.endswith(b'WEBPVP8 ')):
        return ''
    return (
        f'{path}: was compressed with losses and holds {values} values, some of which are traces '
        'of others at edges; write masks as PNG, from what was drawn'
    )


def strips(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Views of (H, W, ...) some rows at a time, about a million pixels each."""
    rows = max(STRIP // max(pixels.shape[1], 1), 1)
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top : top + rows]
