"""Videos, frame by frame: read, predicted, drawn and written without holding more than a few."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2

from ...errors import ImageError
from ...utils.files import replaced_when_whole
from ..images.drawing import with_legend
from ..images.sources import ImageSource
from .predictor import Predictor
from .results import class_shares, write_table

CODEC = 'mp4v'
USUAL_RATE = 25.0  # frames a second, where the file does not tell


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
