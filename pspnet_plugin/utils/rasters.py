"""Images with all their channels as they are: rasters by ``rasterio``, which the extra ``geo`` has.

A pixel has no data where one of its values is NaN or infinite, where a mask or an alpha band says
so, and where its values are what the file declares as nodata.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine import fileio

from ..errors import ImageError, PredictionError
from .tiff import ORIENTATION, require_one_page, tiff_pages

try:
    import rasterio
except ImportError:
    rasterio = None

SUFFIXES = frozenset(['.img', '.jp2', '.tif', '.tiff', '.vrt'])  # of what rasterio reads
# What GDAL may keep of files, in megabytes; by itself it takes a twentieth of the memory.
CACHE = 128
# All bits, one channel or blue, green and red without alpha, upright.
AS_IT_IS = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR


def read_raster(path: str) -> tuple[np.ndarray, np.ndarray]:
    """All of an image, (H, W, C), and which of its pixels have data, (H, W)."""
    if Path(path).suffix.lower() in SUFFIXES:
        with Raster(path) as raster:
            return raster.read()
    return decode_as_it_is(fileio.get(path), path)


def decode_as_it_is(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The same of the bytes of a file that OpenCV reads."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), AS_IT_IS)
    if image is None:
        raise ImageError(name, 'is no image that can be decoded.')
    pixels: np.ndarray = np.atleast_3d(image)
    return pixels, np.logical_and.reduce(np.isfinite(pixels), axis=2)


class Raster(contextlib.AbstractContextManager):
    """A raster that is read as a whole or in windows, without its alpha band.

    Args:
        path: of the file.
        bgr_of: so many bands begin with blue, green, red, as mmcv reads images.

    Raises:
        ImageError: it cannot be opened, is stored turned, has several pages or complex numbers.
        PredictionError: ``rasterio`` is not installed.
    """

    def __init__(self, path: str, bgr_of: Collection[int] = (3,)) -> None:
        require_rasterio()
        self.path = path
        require_one_upright_page(path)
        self.files = contextlib.ExitStack()
        self.files.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
        try:
            self.file = self.files.enter_context(rasterio.open(path))
        except (rasterio.errors.RasterioError, UnicodeEncodeError) as error:
            self.files.close()
            raise ImageError(path, f'cannot be opened as a raster ({error}).') from error
        if any('complex' in kind for kind in self.file.dtypes):
            self.files.close()
            raise ImageError(path, 'has complex numbers: write their amplitudes.')
        kinds = list(zip(self.file.indexes, self.file.colorinterp))
        self.alpha = [n for n, kind in kinds if kind == rasterio.enums.ColorInterp.alpha]
        bands = [n for n in self.file.indexes if n not in self.alpha]
        self.bands = bands[2::-1] + bands[3:] if len(bands) in bgr_of else bands
        self.size = self.file.height, self.file.width
        of_all = self.file.mask_flag_enums  # asked once: each time it looks at every band
        flags = (of_all[band - 1] for band in self.bands)
        self.has_mask = any(rasterio.enums.MaskFlags.all_valid not in kinds for kinds in flags)

    def __exit__(self, *error: object) -> None:
        self.files.close()

    def read(self, *area: int) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of an area, or of all, (h, w, C), and which of them have data, (h, w) bool.

        Args:
            area: row, column, height and width.
        """
        window = gdal_window(*area)
        with self.broken_is_image_error():
            bands = self.file.read(self.bands, window=window)
            has_data = np.isfinite(bands).all(0)
            if self.has_mask:
                masks = self.file.read_masks(self.bands, window=window) > 0
                # Among values that are never negative nodata is one that is measured, too: black.
                has_data &= masks.any(0) if bands.dtype.kind == 'u' else masks.all(0)
        return np.ascontiguousarray(np.moveaxis(bands, 0, -1)), has_data

    def read_band(self, band: int, *area: int) -> np.ndarray:
        """One band, counted from 1, of an area, (h, w)."""
        with self.broken_is_image_error():
            return self.file.read(band, window=gdal_window(*area))

    @contextlib.contextmanager
    def broken_is_image_error(self) -> Iterator[None]:
        """Within this context what GDAL cannot read is an ImageError."""
        try:
            yield
        except rasterio.errors.RasterioError as error:
            reason = error.__cause__ or error
            raise ImageError(self.path, f'is cut or broken ({reason}).') from error


def require_one_upright_page(path: str) -> None:
    """Raise ImageError for a TIFF of several pages, or stored turned, which GDAL does not undo."""
    try:
        with open(path, 'rb') as file:
            pages = tiff_pages(file)
    except (OSError, ValueError):  # what cannot be opened is said by GDAL
        return
    require_one_page(pages, path)
    turned = pages[0].get(ORIENTATION, 1) if pages else 1
    if turned != 1:
        raise ImageError(path, f'is stored turned (orientation {turned}): write it upright.')


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
