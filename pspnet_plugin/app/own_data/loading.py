"""What a config's loading steps make of a file: whether something in it is lost or misread."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import ImageError
from ...utils import tiff
from ...utils.rasters import Raster, rasterio, read_raster
from ..images.reading import PNG_START
from ..images.sources import RASTER_SUFFIXES


def image_problems(
    path: str, content: bytes, pages: list[tiff.Tags], image: np.ndarray, loader: str
) -> Iterator[str]:
    """What ``loader``, the type of a step, loses of an image or misreads, a line each.

    Args:
        content: of the file.
        pages: the tags of a TIFF.
        image: as it was loaded, (H, W) or (H, W, C).
    """
    if loader == 'LoadRaster':
        return
    if image.dtype == np.uint8 and has_16_bits(content, pages):
        yield (
            f"{path}: has 16 bits and is read with 8; set color_type='unchanged' in "
            'LoadImageFromFile, and mean and std in its unit'
        )
    if has_no_numbers(image, pages):
        yield (
            f'{path}: has pixels without data (NaN, infinite, nodata), which go to the network as '
            'they are; use LoadRaster, which puts the mean of the image there'
        )
    if not pages:
        return
    if tiff.is_mixed_by_opencv(pages[0]):
        yield f'{path}: {loader} mixes up its bands, which are stored apart; use LoadRaster'
    channels, bands = image.reshape(*image.shape[:2], -1).shape[2], pages[0].get(tiff.SAMPLES, 1)
    channels = 1 if tiff.is_cut_by_opencv(pages[0]) else channels
    has_alpha = bool(tiff.ALPHA & set(pages[0].get(tiff.EXTRA_SAMPLES, ())))
    if bands not in (1, channels) and bands - has_alpha != channels:
        yield f'{path}: has {bands} bands, of which {loader} reads {channels}; use LoadRaster'
    elif has_alpha and rasterio is not None:
        colours, _ = read_raster(path)
        if not np.array_equal(image[..., : colours.shape[2]], colours):
            yield f'{path}: {loader} multiplies its bands by the last, alpha; use LoadRaster'


def has_no_numbers(image: np.ndarray, pages: list[tiff.Tags]) -> bool:
    """Whether something in an image is NaN, infinite, or a nodata that is no measurement."""
    if not np.isfinite(image).all():
        return True
    is_signed = bool(pages) and pages[0].get(tiff.SAMPLE_FORMAT, (1,))[0] != 1
    nodata = tiff.declared_nodata(pages[0]) if is_signed else None
    return nodata is not None and bool((image == nodata).any())


def has_16_bits(content: bytes, pages: list[tiff.Tags]) -> bool:
    """Whether an image file says that its channels have 16 bits; its pixels are not decoded."""
    if content.startswith(PNG_START):
        return content[24] == 16  # of the first chunk; Pillow has no mode for such colours
    if pages:
        return 16 in pages[0].get(tiff.BITS, ())
    try:
        with Image.open(io.BytesIO(content)) as file:
            return file.mode in ('I', 'I;16')
    except (OSError, ValueError):  # an image that OpenCV alone can read
        return False


def share_without_data(path: str, image: np.ndarray) -> float:
    """Which part of an image, (H, W, ...) as it was loaded, is NaN, infinite or nodata, 0 to 1."""
    has_data = np.isfinite(image.reshape(*image.shape[:2], -1)).all(2)
    if rasterio is not None and Path(path).suffix.lower() in RASTER_SUFFIXES:
        with contextlib.suppress(ImageError), Raster(path) as raster:
            if raster.has_mask or raster.file.dtypes[0].startswith('float'):
                has_data = raster.read()[1]
    return float(1 - has_data.mean())
