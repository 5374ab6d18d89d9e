"""GeoTIFF and the other rasters that GDAL reads, in windows: never the whole of it in memory.

The label map has the georeference of its image, and 255 (or 65535) where that has no data.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ImageError, PredictionError
from ...utils.rasters import bands_of, open_raster, read_from, require_rasterio

try:
    import rasterio
    from rasterio.windows import Window
except ImportError:  # the extra `geo`
    rasterio = None

# What GDAL may keep of files, in megabytes; by itself it takes a twentieth of the memory.
CACHE = 128
SUFFIXES = frozenset(['.tif', '.tiff', '.vrt', '.img', '.jp2'])
# Deflate with a horizontal predictor suits label maps; files of more than 4 GB are BigTIFF.
WRITTEN = {'driver': 'GTiff', 'tiled': True, 'compress': 'deflate', 'BIGTIFF': 'IF_SAFER'}


def limited_cache() -> Any:
    """A context in which GDAL keeps little of its files in memory."""
    require_rasterio()
    return rasterio.Env(GDAL_CACHEMAX=CACHE)


class Raster:
    """A raster that is read in windows.

    Args:
        path: of the file.
        channels: how many bands the network reads; an alpha band behind them is left out.
        bgr: give three bands in the order blue, green, red, as mmcv reads images.
        eight_bits: the config reads images with 8 bits, so that other values would be too large.

    Raises:
        ImageError: it cannot be opened, or does not fit.
    """

    def __init__(self, path: str, channels: int, bgr: bool, eight_bits: bool) -> None:
        self.file = open_raster(path)
        bands = bands_of(self.file)
        if len(bands) != channels:
            raise ImageError(path, f'has {len(bands)} bands, but the model reads {channels}.')
        kinds = sorted({str(kind) for kind in self.file.dtypes})
        if eight_bits and kinds != ['uint8']:
            raise ImageError(
                path,
                f'has {", ".join(kinds)} values, but the config reads images with 8 bits. Set '
                "color_type='unchanged' in its LoadImageFromFile, and mean and std in the unit of "
                'these values.',
            )
        self.bands = bands[::-1] if bgr and channels == 3 else bands
        self.path, self.size = path, (self.file.height, self.file.width)

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """The pixels of a window, (height, width, channels)."""
        window = Window(column, row, width, height)
        return np.moveaxis(read_from(self.path, self.file.read, self.bands, window=window), 0, -1)

    def has_data(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Which pixels of a window hold a value, (height, width) bool."""
        window = Window(column, row, width, height)
        return read_from(self.path, self.file.dataset_mask, window=window) > 0

    def close(self) -> None:
        """Close the file."""
        self.file.close()


@contextlib.contextmanager
def written(path: Path, like: Raster, bands: int, dtype: str, nodata: int | None) -> Iterator[Any]:
    """A GeoTIFF to write blocks into, with the georeference of ``like``.

    It has its name when all of it is written, and not before.

    Raises:
        PredictionError: it cannot be written.
    """
    part = path.with_name(f'{path.name}.part')
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = like.size
    place = {'crs': like.file.crs, 'transform': like.file.transform}
    shape = {'height': height, 'width': width, 'count': bands, 'dtype': dtype, 'nodata': nodata}
    try:
        with rasterio.open(part, 'w', **WRITTEN, **place, **shape) as target:
            yield target
        os.replace(part, path)
    except (rasterio.errors.RasterioError, OSError) as error:
        reason = error.__cause__ or error
        raise PredictionError(f'{path} cannot be written: {reason}.') from error
    finally:
        part.unlink(missing_ok=True)


def write_colours(target: Any, palette: list[list[int]]) -> None:
    """Give label values the colours of their classes, RGB from 0 to 255."""
    if target.dtypes[0] == 'uint8':  # no others can have a colour table
        target.write_colormap(1, {n: tuple(colour) for n, colour in enumerate(palette)})


def count_labels(path: Path, classes: int) -> np.ndarray:
    """How many pixels of a written label map have each label, (classes,)."""
    counts = np.zeros(classes, np.int64)
    with rasterio.open(path) as file:
        for _, window in file.block_windows(1):
            found = file.read(1, window=window)
            counts += np.bincount(found[found < classes], minlength=classes)
    return counts


def write_block(target: Any, values: np.ndarray, row: int, column: int) -> None:
    """Write (h, w) or (bands, h, w) with its upper left pixel at (row, column)."""
    height, width = values.shape[-2:]
    bands = values[None] if values.ndim == 2 else values
    target.write(bands, window=Window(column, row, width, height))
