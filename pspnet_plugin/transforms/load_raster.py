"""Images of any number of bands, such as satellites take, as GDAL reads them."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..utils.rasters import read_raster


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
