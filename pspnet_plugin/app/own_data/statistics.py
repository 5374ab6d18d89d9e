"""What an image of the user's own holds, read some rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ...errors import ImageError
from ...utils import tiff
from ...utils.rasters import AS_IT_IS, Raster, rasterio
from ..images.reading import orientation_of, require_complete
from ..images.sources import RASTER_SUFFIXES

THUMBNAIL = (16, 16)
STRIP = 1 << 18  # pixels
OPENCV_UNPACKS = (1, 5, 7, 8, 32773, 32946)  # none, LZW, JPEG, deflate, PackBits and deflate again
BLACK_IS_0, RGB, PALETTE, YCBCR = 1, 2, 3, 6
# What GIS write where they have no data; float32 has nothing below the last.
USUAL_NODATA = (-9999.0, -32768.0, float(np.finfo(np.float32).min))
MASK = 4  # the kind of a page


class Pair(NamedTuple):
    """An image and its mask."""

    name: str  # the image's path below its folder, without the suffix where all have the same
    image: Path
    mask: Path


class ImageStatistics(NamedTuple):
    """What is known of an image and its mask."""

    pair: Pair  # their files
    size: tuple[int, int]  # (height, width) in pixels
    channels: int  # of the image, without alpha
    depth: str  # the name of the data type of its values
    values: Counter  # how many pixels of the mask have each value
    thumbnail: np.ndarray  # (16, 16) float32, the grey image in 0 to 1
    total: np.ndarray  # sum of the values with data in each channel, BGR for colours
    squares: np.ndarray  # sum of their squares
    plain_mask: bool  # whether mmseg reads the same numbers from the mask itself
    with_data: int = 0  # how many pixels of the image have data
    # Whether ``LoadImageFromFile`` reads it right, in colours; otherwise ``LoadRaster`` does.
    in_colours: bool = True
    # How EXIF says that the file is stored, and how its mask is; None where the sizes do not tell.
    orientation: int = 1
    mask_orientation: int | None = 1

    @property
    def lacking(self) -> float:
        """Which part of the image has no data, 0 to 1."""
        return 1 - self.with_data / (self.size[0] * self.size[1])


def image_statistics(pair: Pair) -> ImageStatistics:
    """What the image of a pair holds; it is read some rows at a time.

    Raises:
        ImageError: it cannot be read, or has no data.
    """
    path = pair.image
    with open(path, 'rb') as file:
        require_complete(file, str(path))
        orientation, pages = orientation_of(file), tiff.tiff_pages(file)
    if pages and path.suffix.lower() not in RASTER_SUFFIXES:
        raise ImageError(str(path), 'is a TIFF: let its name end in .tif')
    is_right = not pages or opencv_is_right(path, pages)
    if not is_right and pages[0].get(tiff.PHOTOMETRIC) == PALETTE:
        raise ImageError(str(path), 'holds the numbers of a palette: write its colours, as RGB')
    height, with_data, total, squares = 0, 0, np.zeros(1), np.zeros(1)
    greys, masks = [], []  # as narrow as the thumbnail
    low, high = np.inf, -np.inf
    for strip, has_data in strips_of(path, pages, is_right):
        values = strip[has_data].astype(np.float64)
        if strip.dtype.kind != 'u':
            require_declared_nodata(path, values)
        total, squares = total + values.sum(0), squares + np.einsum('nc,nc->c', values, values)
        height, with_data = height + len(strip), with_data + len(values)
        with np.errstate(over='ignore', invalid='ignore'):  # in what has no data
            grey = np.where(has_data, strip.mean(2, dtype=np.float32), 0)
        low = min(low, float(grey.min(where=has_data, initial=np.inf)))
        high = max(high, float(grey.max(where=has_data, initial=-np.inf)))
        greys.append(resized(grey, (THUMBNAIL[0], len(grey))))
        masks.append(resized(has_data.astype(np.float32), (THUMBNAIL[0], len(grey))))
    if not with_data:
        raise ImageError(str(path), 'has no pixel with data')
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
        values=Counter(),
        thumbnail=(grey - low) / (high - low or 1),
        total=total,
        squares=squares,
        plain_mask=True,
        with_data=with_data,
        in_colours=is_right and depth == 'uint8',
        orientation=orientation,
    )


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The means of the areas of (H, W), for a size of (width, height)."""
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def strips_of(
    path: Path, pages: Sequence[tiff.Tags], is_right: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """An image, (h, w, C), some rows at a time, and which pixels have data, as LoadRaster has them.

    Args:
        pages: the tags of a TIFF.
        is_right: OpenCV reads it; what GDAL reads alike is still read by it, without all in memory.
    """
    is_alike = pages and pages[0].get(tiff.PHOTOMETRIC) in (BLACK_IS_0, RGB)
    if not is_right or (is_alike and tiff.bits(pages[0]) == 8 and rasterio is not None):
        with Raster(str(path)) as raster:
            for area in areas(*raster.size):
                require_alpha(raster, area)
                yield raster.read(*area)
        return
    image = cv2.imdecode(np.fromfile(path, np.uint8), AS_IT_IS)
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


def opencv_is_right(path: Path, pages: Sequence[tiff.Tags]) -> bool:
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
        and not (rasterio is not None and has_mask_beside(path))
    )


def has_mask_beside(path: Path) -> bool:
    """Whether GDAL finds another file that says where a raster has no data."""
    with Raster(str(path)) as raster:
        return raster.has_mask


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
