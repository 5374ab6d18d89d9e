"""Videos, frame by frame: read, predicted, drawn and written without holding more than a few."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ...errors import ImageError
from ...utils.files import replaced_when_whole
from ..images.drawing import with_legend
from ..images.sources import ImageSource
from .outputs import Job, class_shares, write_table
from .predictor import Predictor

CODEC = 'mp4v'
USUAL_RATE = 25.0  # frames a second, where the file does not tell


def predict_video(predictor: Predictor, job: Job, opacity: float) -> None:
    """Write the video of a job with the classes over each frame, and the table of its frames.

    Raises:
        ImageError: it cannot be read, or not to its end.
        OSError: it cannot be written.
    """
    assert job.frames is not None
    assert job.overlay is not None
    rows = []
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(opened_video(job.source))
        part = stack.enter_context(replaced_when_whole(job.overlay, f'.part{job.overlay.suffix}'))
        writer: cv2.VideoWriter | None = None
        for number, prediction in enumerate(predictor.predict(frames_of(video, job.source))):
            picture = prediction.overlay(opacity)
            # All names, also those that do not occur: a frame has to be as high as the others.
            picture = even(with_legend(picture, prediction.classes, prediction.palette))
            if writer is None:
                writer = video_writer(part, rate_of(video), picture)
                stack.callback(writer.release)
            writer.write(picture[..., ::-1])
            rows.append((number, class_shares(prediction.counts)))
        if writer is None:
            raise ImageError(job.source.name, 'is a video without a frame that can be decoded.')
    write_table(job.frames, 'frame', predictor.classes, rows)


@contextlib.contextmanager
def opened_video(source: ImageSource) -> Iterator[cv2.VideoCapture]:
    """An open video file."""
    if not os.path.isfile(source.name) or not os.path.getsize(source.name):
        raise ImageError(source.name, 'is no file, or an empty one.')
    video = cv2.VideoCapture(source.name)
    try:
        if not video.isOpened():
            raise ImageError(source.name, 'is no video that can be decoded, or its end is missing.')
        yield video
    finally:
        video.release()


def rate_of(video: cv2.VideoCapture) -> float:
    """Frames a second."""
    return video.get(cv2.CAP_PROP_FPS) or USUAL_RATE


def frames_of(video: cv2.VideoCapture, source: ImageSource) -> Iterator[ImageSource]:
    """The frames of a video, as images of their own.

    Raises:
        ImageError: the video ends a second or more before its end.
    """
    count = 0
    while True:
        good, pixels = video.read()
        if not good:
            break
        yield ImageSource(f'{source.name} frame {count}', pixels, Path(f'{count:06}'))
        count += 1
    promised = video.get(cv2.CAP_PROP_FRAME_COUNT)
    if count + rate_of(video) <= promised:  # containers may be off by a few frames
        raise ImageError(
            source.name, f'ends after {count} of {promised:.0f} frames: it is cut or broken.'
        )


def even(picture: np.ndarray) -> np.ndarray:
    """A picture without its last row and column where these make its sides odd, as codecs ask."""
    height, width = (side - side % 2 for side in picture.shape[:2])
    return picture[:height, :width]


def video_writer(path: str, rate: float, picture: np.ndarray) -> cv2.VideoWriter:
    """An open writer of frames like ``picture``."""
    size = picture.shape[1], picture.shape[0]
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*CODEC), rate, size)
    if not writer.isOpened():
        raise OSError('OpenCV has no encoder for it here')
    return writer
