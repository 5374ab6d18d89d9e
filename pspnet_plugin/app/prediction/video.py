"""Videos, frame by frame: read, predicted, drawn and written without holding more than a few."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ...errors import ImageError
from ..images.drawing import blend, shown, with_legend
from ..images.sources import Source
from .outputs import Job, cannot_write, shares, write_table
from .predictor import Predictor
from .result import Prediction

CODEC = 'mp4v'
USUAL_RATE = 25.0  # frames a second, where the file does not tell


def predict_video(predictor: Predictor, job: Job, opacity: float) -> None:
    """Write the video of a job with the classes over each frame, and the table of its frames.

    Raises:
        ImageError: it cannot be read, or not to its end.
        PredictionError: it cannot be written.
    """
    assert job.frames is not None
    assert job.overlay is not None
    part = job.overlay.with_name(f'{job.overlay.stem}.part{job.overlay.suffix}')
    rows = []
    with contextlib.ExitStack() as stack:
        capture = stack.enter_context(opened(job.source))
        rate = capture.get(cv2.CAP_PROP_FPS) or USUAL_RATE
        stack.callback(lambda: part.unlink(missing_ok=True))
        writer: cv2.VideoWriter | None = None
        for number, prediction in enumerate(predictor.predict(frames(capture, job.source))):
            picture = even(drawn(prediction, opacity))
            if writer is None:
                writer = writer_for(part, rate, picture)
                stack.callback(writer.release)
            writer.write(picture[..., ::-1])
            rows.append((number, shares(prediction.counts)))
        if writer is None:
            raise ImageError(job.source.name, 'is a video without a frame that can be decoded.')
        writer.release()
        os.replace(part, job.overlay)
    write_table(job.frames, 'frame', predictor.classes, rows)


@contextlib.contextmanager
def opened(source: Source) -> Iterator[cv2.VideoCapture]:
    """An open video file."""
    if not os.path.isfile(source.name) or not os.path.getsize(source.name):
        raise ImageError(source.name, 'is no file, or an empty one.')
    capture = cv2.VideoCapture(source.name)
    try:
        if not capture.isOpened():
            raise ImageError(source.name, 'is no video that can be decoded, or its end is missing.')
        yield capture
    finally:
        capture.release()


def frames(capture: cv2.VideoCapture, source: Source) -> Iterator[Source]:
    """The frames of a video, as images of their own.

    Raises:
        ImageError: the video ends a second or more before its end.
    """
    promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    rate = capture.get(cv2.CAP_PROP_FPS) or USUAL_RATE
    count = 0
    while True:
        good, pixels = capture.read()
        if not good:
            break
        yield Source(f'{source.name} frame {count}', pixels, Path(f'{count:06}'))
        count += 1
    if count + rate <= promised:  # containers may be off by a few frames
        raise ImageError(
            source.name, f'ends after {count} of {promised:.0f} frames: it is cut or broken.'
        )


def drawn(prediction: Prediction, opacity: float) -> np.ndarray:
    """A frame under the colours of its classes; the legend names all, so that its size stays."""
    picture = blend(shown(prediction.image), prediction.label_map, prediction.palette, opacity)
    return with_legend(picture, prediction.classes, prediction.palette)


def even(picture: np.ndarray) -> np.ndarray:
    """A picture without its last row and column where these make its sides odd, as codecs ask."""
    height, width = (side - side % 2 for side in picture.shape[:2])
    return picture[:height, :width]


def writer_for(path: Path, rate: float, picture: np.ndarray) -> cv2.VideoWriter:
    """An open writer of frames like ``picture``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = picture.shape[1], picture.shape[0]
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODEC), rate, size)
        if not writer.isOpened():
            raise OSError('OpenCV has no encoder for it here')
    except OSError as error:
        raise cannot_write(path, error) from error
    return writer
