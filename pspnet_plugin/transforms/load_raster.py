"""A transform that loads all channels of an image as they are."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..errors import ImageError
from ..utils.rasters import read_raster


@TRANSFORMS.register_module()
class LoadRaster(BaseTransform):
    """Load all channels of an image as they are, whatever their number and type.

    It stands where ``LoadImageFromFile`` does. GeoTIFF and the other rasters that GDAL reads are
    read by ``rasterio``, which knows any number of bands and what has no data; other images by
    OpenCV, turned upright where EXIF says so. An alpha channel is left out; three channels come in
    the order blue, green, red, as from ``LoadImageFromFile``.

    Where a pixel has no data it gets the mean of the image, which is little to a network.

    Args:
        to_float32: give float32 in place of the file's own type.

    Raises:
        ImageError: the file cannot be read, or has no pixel with data.
        PredictionError: ``rasterio`` is not installed.
    """

    def __init__(self, to_float32: bool = True) -> None:
        self.to_float32 = to_float32

    def transform(self, results: dict) -> dict:
        """Read ``img_path``; set ``img``, (H, W, C), ``img_shape`` and ``ori_shape``, (H, W)."""
        image, has_data = read_raster(results['img_path'])
        image = image.astype(np.float32) if self.to_float32 else image
        if not has_data.any():
            raise ImageError(results['img_path'], 'has no pixel with data.')
        if not has_data.all():
            image[~has_data] = image[has_data].mean(0, dtype=np.float64)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(to_float32={self.to_float32})'
