"""What images and masks hold, each read once, and what is wrong with them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np
from rich.progress import track

from ...errors import ImageError, PredictionError
from ...utils import tiff
from ...utils.rasters import AS_IT_IS, Raster, rasterio
from ..errors import refuse
from ..images.reading import orientation_of, quiet_opencv, require_complete
from ..images.sources import RASTER_SUFFIXES
from .masks import Mask, read_mask
from .pairs import Pair

LARGE = 16 << 20  # bytes of a file; those that are larger are read one at a time
one_at_a_time = threading.Lock()
THUMBNAIL = (16, 16)
STRIP = 1 << 18  # pixels
OPENCV_UNPACKS = (1, 5, 7, 8, 32773, 32946)  # none, LZW, JPEG, deflate, PackBits and deflate again
BLACK_IS_0, RGB, PALETTE, YCBCR = 1, 2, 3, 6
# What GIS write where they have no data; float32 has nothing below the last.
USUAL_NODATA = (-9999.0, -32768.0, float(np.finfo(np.float32).min))
MASK = 4  # the kind of a page


class ImageStatistics(NamedTuple):
    """What is known of an image and its mask."""

    pair: Pair  # their files
    size: tuple[int, int]  # (height, width) in pixels
    channels: int  # of the image, without alpha
    depth: str  # the name of the data type of its values
    thumbnail: np.ndarray  # (16, 16) float32, the grey image in 0 to 1
    total: np.ndarray  # sum of the values with data in each channel, BGR for colours
    squares: np.ndarray  # sum of their squares
    with_data: int = 0  # how many pixels of the image have data
    # Whether ``LoadImageFromFile`` reads it right, in colours; otherwise ``LoadRaster`` does.
    in_colours: bool = True
    orientation: int = 1  # how EXIF says that the file is stored
    corners: tuple[float, ...] = ()  # where it says that it lies on Earth, see tiff.corners_of
    mask: Mask = Mask()
    mask_orientation: int | None = 1  # how the mask is stored; None where the sizes do not tell

    @property
    def values(self) -> Counter:
        """How many pixels of the mask have each value."""
        return self.mask.values

    @property
    def lacking(self) -> float:
        """Which part of the image has no data, 0 to 1."""
        return 1 - self.with_data / (self.size[0] * self.size[1])


def scan(
    pairs: Sequence[Pair], in_colours: bool = False, drawn: Mapping[Path, Mask] | None = None
) -> list[ImageStatistics]:
    """Read every pair.

    Args:
        in_colours: read masks as colours, see :func:`read_mask`.
        drawn: masks that are known, and lie as images are seen, however these are stored.

    Raises:
        DataError: files are broken, sizes differ, or images are not all of one kind.
    """
    with quiet_opencv(), ThreadPoolExecutor(2) as pool:
        read = partial(statistics_or_problem, in_colours=in_colours, drawn=drawn or {})
        mapped = pool.map(read, pairs)
        shown = track(mapped, 'looking at the images', total=len(pairs), transient=True)
        results = list(shown)
    refuse([found for found in results if isinstance(found, str)])
    images = with_known_masks([found for found in results if isinstance(found, ImageStatistics)])
    if not all(image.in_colours for image in images):
        refuse_other_kinds(images)
    return images


def refuse_other_kinds(images: Sequence[ImageStatistics]) -> None:
    """Raise DataError where some images have other channels, or another type, than the most."""
    kinds = Counter((image.channels, image.depth) for image in images)
    usual = max(kinds, key=kinds.__getitem__)
    refuse(
        [
            f'{image.pair.image}: {image.channels} channels of {image.depth}, the others have '
            f'{usual[0]} of {usual[1]}'
            for image in images
            if (image.channels, image.depth) != usual
        ]
    )


def with_known_masks(images: Sequence[ImageStatistics]) -> list[ImageStatistics]:
    """The images with what their sizes cannot tell: whether masks are stored turned as images are.

    Images that are turned upside down or mirrored follow those that are turned by a quarter.

    Raises:
        DataError: there are none, or of both kinds.
    """
    told = {
        image.mask_orientation == image.orientation
        for image in images
        if image.orientation != 1 and image.mask_orientation is not None
    }
    if len(told) != 1:
        refuse([doubt(i.pair.image, i.orientation) for i in images if i.mask_orientation is None])
    are_turned = told == {True}
    return [
        image._replace(mask_orientation=image.orientation if are_turned else 1)
        if image.mask_orientation is None
        else image
        for image in images
    ]


def doubt(image: Path | str, orientation: int) -> str:
    """What is wrong where nothing tells how a mask lies."""
    return (
        f'{image}: is stored turned (EXIF orientation {orientation}), and nothing tells whether '
        'its mask is, too: write the image as its mask lies, without that mark'
    )


def statistics_or_problem(
    pair: Pair, in_colours: bool, drawn: Mapping[Path, Mask]
) -> ImageStatistics | str:
    """The statistics of one pair; a line that names the file where that fails."""
    try:
        is_large = pair.image.stat().st_size > LARGE
        with one_at_a_time if is_large else contextlib.nullcontext():
            image = image_statistics(pair)
            mask = drawn.get(pair.mask) or read_mask(pair.mask, in_colours)
    except ImageError as error:
        return str(error)
    except PredictionError as error:
        return f'{pair.image}: {error}'
    (height, width), (rows, columns) = image.size, mask.size
    is_quarter = image.orientation >= 5
    is_known = image.orientation == 1 or pair.mask in drawn or mask.mark > 1
    mask_orientation: int | None = 1
    if is_quarter and height != width and (rows, columns) == (width, height):
        mask_orientation = image.orientation
    elif (rows, columns) != (height, width):
        return f'{pair.mask}: {columns} x {rows} pixels, but its image has {width} x {height}'
    elif tiff.lie_apart(image.corners, mask.corners):
        return f'{pair.mask}: shows another place than its image, as the georeferences of both say'
    elif not is_known and (height == width or not is_quarter):
        mask_orientation = None
    return image._replace(mask=mask, mask_orientation=mask_orientation)


def image_statistics(pair: Pair) -> ImageStatistics:
    """What the image of a pair holds, of which the file is opened once.

    Raises:
        ImageError: it cannot be read, or has no data.
    """
    path = pair.image
    with open(path, 'rb') as file:
        pages, orientation = require_complete(file, str(path)), orientation_of(file)
        if pages and path.suffix.lower() not in RASTER_SUFFIXES:
            raise ImageError(str(path), 'is a TIFF: let its name end in .tif')
        with raster_of(path, pages) as (raster, is_right):
            found = summed(pair, strips_of(file, path, raster))
    return found._replace(
        in_colours=is_right and found.depth == 'uint8',
        orientation=orientation,
        corners=tiff.corners_of(pages),
    )


def summed(pair: Pair, strips: Iterable[tuple[np.ndarray, np.ndarray]]) -> ImageStatistics:
    """What the pixels of an image come to.

    Args:
        strips: some of its rows, (h, w, C), and which of these pixels have data, one after another.
    """
    height, with_data, total, squares = 0, 0, np.zeros(1), np.zeros(1)
    greys, masks = [], []  # as narrow as the thumbnail
    low, high = np.inf, -np.inf
    for strip, has_data in strips:
        values = strip[has_data].astype(np.float64)
        if strip.dtype.kind != 'u':
            require_declared_nodata(pair.image, values)
        total, squares = total + values.sum(0), squares + np.einsum('nc,nc->c', values, values)
        height, with_data = height + len(strip), with_data + len(values)
        with np.errstate(over='ignore', invalid='ignore'):  # in what has no data
            grey = np.where(has_data, strip.mean(2, dtype=np.float32), 0)
        low = min(low, float(grey.min(where=has_data, initial=np.inf)))
        high = max(high, float(grey.max(where=has_data, initial=-np.inf)))
        greys.append(resized(grey, (THUMBNAIL[0], len(grey))))
        masks.append(resized(has_data.astype(np.float32), (THUMBNAIL[0], len(grey))))
    if not with_data:
        raise ImageError(str(pair.image), 'has no pixel with data')
    depth = str(strip.dtype)
    if depth == 'uint8':
        low, high = 0, max(high, 1)
    grey, shares = (resized(np.concatenate(parts), THUMBNAIL) for parts in (greys, masks))
    grey = np.divide(grey, shares, out=np.full_like(grey, low), where=shares > 0)
    return ImageStatistics(
        pair,
        size=(height, strip.shape[1]),
        channels=strip.shape[2],
        depth=depth,
        thumbnail=(grey - low) / (high - low or 1),
        total=total,
        squares=squares,
        with_data=with_data,
    )


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The means of the areas of (H, W), for a size of (width, height)."""
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


@contextlib.contextmanager
def raster_of(path: Path, pages: Sequence[tiff.Tags]) -> Iterator[tuple[Raster | None, bool]]:
    """What GDAL reads an image by, None where OpenCV does, and whether OpenCV reads all of it.

    What both read alike is read by GDAL, without all of it in memory.
    """
    is_right = not pages or opencv_is_right(pages)
    with contextlib.ExitStack() as stack:
        raster = None
        if pages and is_right and rasterio is not None:
            raster = stack.enter_context(Raster(str(path)))
            is_right = not raster.has_mask  # beside the file
        if is_right:
            is_alike = pages and pages[0].get(tiff.PHOTOMETRIC) in (BLACK_IS_0, RGB)
            raster = raster if is_alike and tiff.bits(pages[0]) == 8 else None
        elif pages[0].get(tiff.PHOTOMETRIC) == PALETTE:
            raise ImageError(str(path), 'holds the numbers of a palette: write its colours, as RGB')
        yield (raster if is_right or raster else stack.enter_context(Raster(str(path)))), is_right


def strips_of(
    file: BinaryIO, path: Path, raster: Raster | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An image, (h, w, C), some rows at a time, and which pixels have data, as LoadRaster has them.

    Args:
        file: the content of ``path``, which OpenCV reads where there is no ``raster``.
    """
    if raster is not None:
        for area in areas(*raster.size):
            require_alpha(raster, area)
            yield raster.read(*area)
        return
    file.seek(0)
    image = cv2.imdecode(np.fromfile(file, np.uint8), AS_IT_IS)
    if image is None:
        raise ImageError(str(path), 'is no image that can be decoded')
    image = np.atleast_3d(image)
    for top, _, rows, _ in areas(*image.shape[:2]):
        strip = image[top : top + rows]
        yield strip, np.logical_and.reduce(np.isfinite(strip), axis=2)


def areas(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Row, column, height and width of strips of about 260 thousand pixels."""
    rows = max(STRIP // width, 1)
    for top in range(0, height, rows):
        yield top, 0, min(rows, height - top), width


def opencv_is_right(pages: Sequence[tiff.Tags]) -> bool:
    """Whether OpenCV reads all of a TIFF: grey or colours of 8 bits that all have data."""
    page = pages[0]
    colours = page.get(tiff.PHOTOMETRIC) in (RGB, YCBCR)
    return (
        tiff.bits(page) in (1, 8)
        and page.get(tiff.SAMPLES, 1) == (3 if colours else 1)
        and page.get(tiff.SAMPLE_FORMAT, (1,))[0] == 1
        and page.get(tiff.COMPRESSION, 1) in OPENCV_UNPACKS
        and tiff.GDAL_NODATA not in page
        and not any(other.get(tiff.KIND, 0) & MASK for other in pages)
    )


def require_declared_nodata(path: Path, values: np.ndarray) -> None:
    """Raise ImageError where pixels with data, (N, C), are a usual nodata in all channels."""
    found = [f'{usual:.17g}' for usual in USUAL_NODATA if (values == usual).all(1).any()]
    if found:
        raise ImageError(
            str(path),
            f'holds {found[0]}, a usual nodata, which would count as measured: declare it, '
            f'rio edit-info --nodata={found[0]} FILE; if it is none, write another value',
        )


def require_alpha(raster: Raster, area: tuple[int, int, int, int]) -> None:
    """Raise ImageError where the alpha band, which is left out, is no mask in an area."""
    for band in raster.alpha:
        if len(np.unique(raster.read_band(band, *area))) > 2:
            kinds = zip(raster.file.indexes, raster.file.colorinterp)
            marks = ['undefined' if number == band else kind.name for number, kind in kinds]
            raise ImageError(
                raster.path,
                f'band {band} is marked as alpha and would be left out, but holds more than two '
                'values. If it is measured, say so: rio edit-info --colorinterp '
                f'{",".join(marks)} FILE; otherwise write it as 0 and 255',
            )


def lacking_line(shares: Mapping[str, float]) -> str:
    """What is told of the parts of images that have no data; nothing where all have.

    Args:
        shares: for the path of each image the part of it without data, 0 to 1.
    """
    lacking = {path: share for path, share in shares.items() if share > 0}
    if not lacking:
        return ''
    most = max(lacking, key=lacking.__getitem__)
    mean = sum(lacking.values()) / len(lacking)
    return (
        f'without data (NaN, infinite, nodata): {len(lacking)} images, {mean:.2%} of their pixels; '
        f'most in {most}, {lacking[most]:.2%}\n'
    )
