"""GeoTIFF and the other rasters that GDAL reads, by ``rasterio``, the extra ``geo``."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..errors import ImageError, PredictionError

try:
    import rasterio
except ImportError:
    rasterio = None


@TRANSFORMS.register_module()
class LoadRaster(BaseTransform):
    """Load all bands of a GeoTIFF, or of another raster that GDAL reads, by ``rasterio``.

    It stands where ``LoadImageFromFile`` does, for files that OpenCV cannot read: with more than
    four bands, or each band apart from the others. An alpha band is left out; three bands come in
    the order blue, green, red, as from ``LoadImageFromFile``.

    Args:
        to_float32: give float32 in place of the file's own type.

    Raises:
        ImageError: the file cannot be read.
        PredictionError: ``rasterio`` is not installed.
    """

    def __init__(self, to_float32: bool = True) -> None:
        self.to_float32 = to_float32

    def transform(self, results: dict) -> dict:
        """Read ``img_path``; set ``img``, (H, W, C), ``img_shape`` and ``ori_shape``, (H, W)."""
        image = read_raster(results['img_path'])
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(to_float32={self.to_float32})'


def read_raster(path: str) -> np.ndarray:
    """All of a raster, (H, W, C), without alpha; three bands as blue, green, red."""
    with Raster(path) as raster:
        return np.ascontiguousarray(raster.read())


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
        except (rasterio.errors.RasterioError, UnicodeEncodeError) as error:
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


def gdal_window(*area: int) -> Any:
    """GDAL's window of an area (row, column, height, width); None for all of a raster."""
    if not area:
        return None
    row, column, height, width = area
    return rasterio.windows.Window(column, row, width, height)


def require_rasterio() -> None:
    """Raise PredictionError where rasterio is not installed."""
    if rasterio is None:
        raise PredictionError(
            "Rasters are read by rasterio, which is missing: pip install 'pspnet-plugin[geo]'"
        )
