"""GeoTIFF and the other rasters that GDAL reads, by ``rasterio``, the extra ``geo``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ImageError, PredictionError
from .files import replaced_when_whole

try:
    import rasterio
    from rasterio.windows import Window
except ImportError:
    rasterio = None


# What GDAL may keep of files, in megabytes; by itself it takes a twentieth of the memory.
CACHE = 128
# Deflate with a horizontal predictor suits label maps; files of more than 4 GB are BigTIFF.
GEOTIFF = {'driver': 'GTiff', 'tiled': True, 'compress': 'deflate', 'BIGTIFF': 'IF_SAFER'}


class Raster(contextlib.AbstractContextManager):
    """A raster that is read as a whole or in windows, without its alpha band.

    Args:
        path: of the file.
        bgr: give three bands in the order blue, green, red, as mmcv reads images.

    Raises:
        ImageError: it cannot be opened.
        PredictionError: ``rasterio`` is not installed.
    """

    def __init__(self, path: str, bgr: bool = True) -> None:
        require_rasterio()
        try:
            self.file = rasterio.open(path)
        except rasterio.errors.RasterioError as error:
            raise ImageError(path, f'cannot be opened as a raster ({error}).') from error
        alpha = rasterio.enums.ColorInterp.alpha
        bands = [n for n, kind in zip(self.file.indexes, self.file.colorinterp) if kind != alpha]
        self.bands = bands[::-1] if bgr and len(bands) == 3 else bands
        self.path, self.size = path, (self.file.height, self.file.width)

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def read(self, *area: int) -> np.ndarray:
        """The pixels of an area (row, column, height, width), or all, (height, width, channels)."""
        return np.moveaxis(self._read(self.file.read, self.bands, window=gdal_window(*area)), 0, -1)

    def has_data(self, *area: int) -> np.ndarray:
        """Which pixels of an area hold a value, (height, width) bool."""
        return self._read(self.file.dataset_mask, window=gdal_window(*area)) > 0

    def _read(self, function: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        try:
            return function(*args, **kwargs)
        except rasterio.errors.RasterioError as error:
            reason = error.__cause__ or error
            raise ImageError(self.path, f'is cut or broken ({reason}).') from error


def read_raster(path: str) -> np.ndarray:
    """All of a raster, (H, W, C), without alpha; three bands as blue, green, red."""
    with Raster(path) as raster:
        return np.ascontiguousarray(raster.read())


@contextlib.contextmanager
def geotiff(
    path: Path, like: Raster, bands: int, dtype: str, nodata: int | None = None
) -> Iterator[Any]:
    """A GeoTIFF to write blocks into, with the size and the georeference of ``like``."""
    kept = {name: getattr(like.file, name) for name in ('height', 'width', 'crs', 'transform')}
    options = {**GEOTIFF, **kept, 'count': bands, 'dtype': dtype, 'nodata': nodata}
    with replaced_when_whole(path) as part, rasterio.open(part, 'w', **options) as file:
        yield file


def count_labels(path: str | Path, classes: int) -> np.ndarray:
    """How many pixels of a label map have each label, (classes,)."""
    counts = np.zeros(classes, np.int64)
    with rasterio.open(path) as file:
        for _, block in file.block_windows(1):
            found = file.read(1, window=block)
            counts += np.bincount(found[found < classes], minlength=classes)
    return counts


def gdal_window(*area: int) -> Any:
    """GDAL's window of an area (row, column, height, width); None for all of a raster."""
    if not area:
        return None
    row, column, height, width = area
    return Window(column, row, width, height)


def limited_cache() -> Any:
    """A context in which GDAL keeps little of its files in memory."""
    require_rasterio()
    return rasterio.Env(GDAL_CACHEMAX=CACHE)


def require_rasterio() -> None:
    """Raise PredictionError where rasterio is not installed."""
    if rasterio is None:
        raise PredictionError(
            "Rasters are read by rasterio, which is missing: pip install 'pspnet-plugin[geo]'"
        )
