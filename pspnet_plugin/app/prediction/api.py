"""The call that predicts: images in, predictions out, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..images.sources import sources_of
from .predictor import OnError, PredictOptions, predictor_for
from .result import Prediction


def predict(
    model: nn.Module,
    images: Any,
    batch_size: int = 1,
    probabilities: bool = False,
    tta: bool = False,
    window: int | None = None,
    on_error: OnError | None = None,
) -> Iterator[Prediction]:
    """Predict label maps, and yield each as it comes, in the order of the images.

    Images go through the test pipeline of ``model.cfg`` and get the labels that mmseg's
    ``inference_model`` gives them. Files are read as the config's ``LoadImageFromFile`` says: by
    default with 8 bits and three channels, turned upright where EXIF says so.

    Args:
        model: from :func:`.model.init_model`, or from mmseg's ``init_model``.
        images: one or many, in any iterable, of: a path, a folder (with all below it), a glob, an
            address ``http(s)://``, a Pillow image, an array (H, W, C). As everywhere in mmseg, the
            channels of an array are **BGR**.
        batch_size: how many images of the same size at the network's input go through it at once.
        probabilities: give the probability of each class, too.
        tta: average the probabilities over the scales and flips of the config's ``tta_pipeline``.
        window: predict at the images' own size in overlapping windows of this side, in pixels.
        on_error: is called with the error of an image that cannot be read or predicted, and the
            others go on; without it the error is raised.

    Raises:
        ImageError: an image cannot be read or predicted; it names the image.
        PredictionError: an argument cannot be used, or names nothing.
    """
    predictor = predictor_for(model, PredictOptions(batch_size, probabilities, tta, window))
    return predictor.predict(sources_of(images), on_error)
