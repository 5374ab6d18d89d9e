"""Rasters such as GeoTIFF: predicted window by window, never the whole of one in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import ImageError
from ...utils.rasters import Raster, gdal_window, geotiff, limited_cache
from .predictor import Predictor
from .results import FULL


def predict_raster(predictor: Predictor, path: str, files: Mapping[str, Path]) -> None:
    """Write the label map of a raster, and its probabilities where there is a file for them.

    Both have the georeference of the image. Pixels without data have the largest label that the
    file can hold, and probability 0.

    Raises:
        ImageError: the raster cannot be read, or does not fit the model.
        OSError: a file cannot be written.
    """
    kind: np.dtype = np.dtype(predictor.label_type)
    nodata = 2 ** (8 * kind.itemsize) - 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(limited_cache())
        raster = stack.enter_context(Raster(path, predictor.pipeline.bgr))
        require_fit(raster, predictor)
        labels = stack.enter_context(geotiff(files['labels'], raster, 1, kind.name, nodata))
        if kind == np.uint8:  # no others can have a colour table
            labels.write_colormap(1, {n: tuple(c) for n, c in enumerate(predictor.palette)})
        pages = None
        if 'probabilities' in files:
            classes = len(predictor.classes)
            pages = stack.enter_context(geotiff(files['probabilities'], raster, classes, 'uint16'))
        for block in predictor.blocks(raster.size, raster.read):
            has_data = raster.has_data(*block.area)
            found = np.where(has_data, predictor.labels_of(block.probabilities), nodata)
            labels.write(found.astype(kind)[None], window=gdal_window(*block.area))
            if pages is not None:
                parts = np.rint(block.probabilities.cpu().numpy() * FULL * has_data)
                pages.write(parts.astype(np.uint16), window=gdal_window(*block.area))


def require_fit(raster: Raster, predictor: Predictor) -> None:
    """Raise ImageError for a raster of other bands, or of another type, than the model reads."""
    found, channels = len(raster.bands), predictor.pipeline.channels
    if found != channels:
        raise ImageError(raster.path, f'has {found} bands, but the model reads {channels}.')
    types = sorted({str(kind) for kind in raster.file.dtypes})
    if predictor.pipeline.reads_eight_bits and types != ['uint8']:
        raise ImageError(
            raster.path,
            f'has {", ".join(types)} values, but the config reads images with 8 bits. Set '
            "color_type='unchanged' in its LoadImageFromFile, and mean and std in the unit of "
            'these values.',
        )
