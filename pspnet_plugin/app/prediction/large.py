"""Videos and rasters, which are predicted part by part: no more than a few parts are in memory."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import ImageError
from ...utils.rasters import Raster, gdal_window, rasterio
from ..images.drawing import with_legend
from ..images.sources import ImageSource
from ..images.videos import require_whole_video
from .predictor import Predictor
from .results import FULL, class_shares, count_labels, write_table

CODEC = 'mp4v'
USUAL_RATE = 25.0  # frames a second, where the file does not tell
# Deflate with a horizontal predictor suits label maps; files of more than 4 GB are BigTIFF.
GEOTIFF = {'driver': 'GTiff', 'tiled': True, 'compress': 'deflate', 'BIGTIFF': 'IF_SAFER'}


def predict_video(
    predictor: Predictor, path: str, files: Mapping[str, str], opacity: float
) -> list[str]:
    """Write a video with the classes over each frame, and the table of its frames.

    Returns:
        The shares of the classes, the mean over its frames.

    Raises:
        ImageError: it cannot be read, or not to its end.
        OSError: it cannot be written.
    """
    if not os.path.isfile(path) or not os.path.getsize(path):
        raise ImageError(path, 'is no file, or an empty one.')
    path = os.path.abspath(path)  # what ends before a colon would be a protocol
    for name in (path, files['overlays']):
        require_utf8(name)
    counted = require_whole_video(path)
    rows, writer = [], None
    with contextlib.ExitStack() as stack:
        video = cv2.VideoCapture(path)
        stack.callback(video.release)
        if not video.isOpened():
            raise ImageError(path, 'is no video that can be decoded, or its end is missing.')
        rate = video.get(cv2.CAP_PROP_FPS) or USUAL_RATE
        frames = frames_of(video, path, rate if counted else None)
        for number, prediction in enumerate(predictor.predict(frames)):
            picture = prediction.overlay(opacity)
            # All names, also those that do not occur: a frame has to be as high as the others.
            picture = with_legend(picture, prediction.classes, prediction.palette)
            height, width = (side - side % 2 for side in picture.shape[:2])  # codecs ask for it
            if writer is None:
                codec = cv2.VideoWriter.fourcc(*CODEC)
                writer = cv2.VideoWriter(files['overlays'], codec, rate, (width, height))
                stack.callback(writer.release)
                if not writer.isOpened():
                    raise ImageError(path, f'OpenCV writes no video of {width} x {height} pixels.')
            writer.write(picture[:height, :width, ::-1])
            rows.append((number, class_shares(prediction.counts)))
        if writer is None:
            raise ImageError(path, 'is a video without a frame that can be decoded.')
    require_frames(files['overlays'], len(rows))
    write_table(files['frames'], 'frame', predictor.classes, rows)
    mean = np.array([shares for _, shares in rows], dtype=float).mean(0)
    return [f'{share:.6f}' for share in mean]


def require_utf8(path: str) -> None:
    """Raise ImageError for a name with which OpenCV would end the process."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ImageError(path, f'{path!r} is not UTF-8, which videos need. Rename it.') from error


def require_frames(path: str, count: int) -> None:
    """Raise OSError for a written video of which frames are missing, which OpenCV does not tell."""
    video = cv2.VideoCapture(path)
    found = 0
    while video.grab():
        found += 1
    video.release()
    if found != count:
        reason = f'of {count} frames {found} can be read again, the disk may be full'
        raise OSError(errno.EIO, reason)


def frames_of(video: cv2.VideoCapture, path: str, rate: float | None) -> Iterator[ImageSource]:
    """The frames of a video, as images of their own.

    Args:
        rate: frames a second; None where the file does not hold the exact number of them.

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
    if rate is not None and count + rate <= promised:  # containers may be off by a few frames
        raise ImageError(path, f'ends after {count} of {promised:.0f} frames: it is cut or broken.')


def predict_raster(predictor: Predictor, path: str, files: Mapping[str, str]) -> list[str]:
    """Write the label map of a raster, and its probabilities where there is a file for them.

    Both have the georeference of the image. Pixels without data have the largest label that the
    file can hold, and probability 0.

    Returns:
        The shares of the classes.

    Raises:
        ImageError: the raster cannot be read, or does not fit the model.
        OSError: a file cannot be written.
    """
    kind: np.dtype = np.dtype(predictor.label_type)
    nodata, pipeline = int(predictor.nodata), predictor.pipeline
    counts = np.zeros(len(predictor.classes), np.int64)
    with contextlib.ExitStack() as stack:
        raster = stack.enter_context(Raster(path, pipeline.bgr_of))
        require_fit(raster, predictor)
        palette = predictor.palette if kind == np.uint8 else None  # no others can have one
        write_labels = stack.enter_context(
            geotiff(files['labels'], raster, 1, kind.name, nodata, palette)
        )
        write_probabilities = None
        if 'probabilities' in files:
            write_probabilities = stack.enter_context(
                geotiff(files['probabilities'], raster, len(counts), 'uint16')
            )

        def pixels_of(*area: int) -> np.ndarray:
            return pipeline.filled(*raster.read(*area))

        for block in predictor.blocks(raster.size, pixels_of):
            _, has_data = raster.read(*block.area)
            found = np.where(has_data, predictor.labels_of(block.probabilities), nodata)
            counts += count_labels(found, len(counts))
            write_labels(found.astype(kind)[None], block.area)
            if write_probabilities is not None:
                parts = np.rint(block.probabilities.cpu().numpy() * FULL * has_data)
                write_probabilities(parts.astype(np.uint16), block.area)
    return class_shares(counts)


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
    path: str,
    like: Raster,
    bands: int,
    dtype: str,
    nodata: int | None = None,
    palette: Sequence[Sequence[int]] | None = None,
) -> Iterator[Callable[[np.ndarray, tuple[int, int, int, int]], None]]:
    """A GeoTIFF with the size and the georeference of ``like``, read again when it is written.

    Yields:
        A function that writes (bands, height, width) into an area (row, column, height, width).

    Raises:
        OSError: it cannot be written, or reads otherwise; GDAL does not tell of a disk that is full
            when it closes a file.
    """
    options = {**GEOTIFF, **georeference(like.file), 'count': bands, 'dtype': dtype}
    written: list[tuple[Any, int]] = []  # areas and their checksums
    try:
        with rasterio.open(path, 'w', nodata=nodata, **options) as file:
            if palette is not None:
                file.write_colormap(1, {n: tuple(colour) for n, colour in enumerate(palette)})

            def write(pixels: np.ndarray, area: tuple[int, int, int, int]) -> None:
                window = gdal_window(*area)
                file.write(pixels, window=window)
                written.append((window, zlib.crc32(pixels.tobytes())))

            yield write
        with rasterio.open(path) as file:
            whole = all(
                zlib.crc32(file.read(window=area).tobytes()) == crc for area, crc in written
            )
    except rasterio.errors.RasterioIOError as error:
        raise OSError(errno.EIO, str(error.__cause__ or error)) from error
    if not whole:
        raise OSError(errno.EIO, 'it does not read as it was written, the disk may be full')


def georeference(file: Any) -> dict[str, Any]:
    """Size and place of a raster, as ``rasterio.open`` takes them."""
    kept = {name: getattr(file, name) for name in ('height', 'width', 'crs', 'transform', 'rpcs')}
    points, crs = file.gcps
    if points:  # in place of a transform
        del kept['transform']
        kept.update(gcps=points, crs=crs)
    return {name: value for name, value in kept.items() if value is not None}
