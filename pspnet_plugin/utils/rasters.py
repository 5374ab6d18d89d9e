"""GeoTIFF and the other rasters that GDAL reads, by ``rasterio``, the extra ``geo``."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ImageError, PredictionError

try:
    import rasterio
except ImportError:
    rasterio = None


def require_rasterio() -> None:
    """Raise PredictionError where rasterio is not installed."""
    if rasterio is None:
        raise PredictionError(
            "Rasters are read by rasterio, which is missing: pip install 'pspnet-plugin[geo]'"
        )


def open_raster(path: str) -> Any:
    """The open file.

    Raises:
        ImageError: it is no raster.
    """
    require_rasterio()
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioError as error:
        raise ImageError(path, f'cannot be opened as a raster ({error}).') from error


def bands_of(file: Any) -> list[int]:
    """The numbers of the bands of an open file, without alpha."""
    alpha = rasterio.enums.ColorInterp.alpha
    return [n for n, kind in zip(file.indexes, file.colorinterp) if kind != alpha]


def read_raster(path: str) -> np.ndarray:
    """All of a raster, (H, W, C), without alpha; three bands as blue, green, red.

    Raises:
        ImageError: it cannot be read.
        PredictionError: ``rasterio`` is not installed.
    """
    with open_raster(path) as file:
        bands = bands_of(file)
        pixels = read_from(path, file.read, bands[::-1] if len(bands) == 3 else bands)
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))


def read_from(path: str, function: Any, *args: Any, **kwargs: Any) -> np.ndarray:
    """What ``function`` of an open file reads.

    Raises:
        ImageError: the file is cut or broken.
    """
    try:
        return function(*args, **kwargs)
    except rasterio.errors.RasterioError as error:
        raise ImageError(path, f'is cut or broken ({error.__cause__ or error}).') from error
