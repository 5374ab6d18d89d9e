"""Videos and rasters, which are predicted part by part: no more than a few parts are in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import ImageError
from ...transforms.load_raster import Raster, gdal_window, rasterio, require_rasterio
from ...utils.files import replaced_when_whole
from ..images.drawing import with_legend
from ..images.sources import ImageSource
from .predictor import Predictor
from .results import FULL, class_shares, write_table

CODEC = 'mp4v'
USUAL_RATE = 25.0  # frames a second, where the file does not tell
# What GDAL may keep of files, in megabytes; by itself it takes a twentieth of the memory.
CACHE = 128
# Deflate with a horizontal predictor suits label maps; files of more than 4 GB are BigTIFF.
GEOTIFF = {'driver': 'GTiff', 'tiled': True, 'compress': 'deflate', 'BIGTIFF': 'IF_SAFER'}


def predict_video(
    predictor: Predictor, path: str, files: Mapping[str, Path], opacity: float
) -> None:
    """Write a video with the classes over each frame, and the table of its frames.

    Raises:
        ImageError: it cannot be read, or not to its end.
        OSError: it cannot be written.
    """
    if not os.path.isfile(path) or not os.path.getsize(path):
        raise ImageError(path, 'is no file, or an empty one.')
    rows, writer = [], None
    with contextlib.ExitStack() as stack:
        video = cv2.VideoCapture(path)
        stack.callback(video.release)
        if not video.isOpened():
            raise ImageError(path, 'is no video that can be decoded, or its end is missing.')
        rate = video.get(cv2.CAP_PROP_FPS) or USUAL_RATE
        part = stack.enter_context(replaced_when_whole(files['overlays'], '.part.mp4'))
        for number, prediction in enumerate(predictor.predict(frames_of(video, path, rate))):
            picture = prediction.overlay(opacity)
            # All names, also those that do not occur: a frame has to be as high as the others.
            picture = with_legend(picture, prediction.classes, prediction.palette)
            height, width = (side - side % 2 for side in picture.shape[:2])  # codecs ask for it
            if writer is None:
                codec = cv2.VideoWriter.fourcc(*CODEC)
                writer = cv2.VideoWriter(part, codec, rate, (width, height))
                stack.callback(writer.release)
                if not writer.isOpened():
                    raise OSError('OpenCV has no encoder for it here')
            writer.write(picture[:height, :width, ::-1])
            rows.append((number, class_shares(prediction.counts)))
        if writer is None:
            raise ImageError(path, 'is a video without a frame that can be decoded.')
    write_table(files['frames'], 'frame', predictor.classes, rows)


def frames_of(video: cv2.VideoCapture, path: str, rate: float) -> Iterator[ImageSource]:
    """The frames of a video, as images of their own.

    Raises:
        ImageError: the video ends a second or more before its end.
    """
    count = 0
    while True:
        good, pixels = video.read()
        if not good:
            break
        yield ImageSource(f'{path} frame {count}', pixels, Path(f'{count:06}'))
        count += 1
    promised = video.get(cv2.CAP_PROP_FRAME_COUNT)
    if count + rate <= promised:  # containers may be off by a few frames
        raise ImageError(path, f'ends after {count} of {promised:.0f} frames: it is cut or broken.')


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
    require_rasterio()
    with contextlib.ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE))
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
