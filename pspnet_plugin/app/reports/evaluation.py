"""A checkpoint on labelled images: predictions beside labels, and what is counted in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from rich.progress import track

from ...errors import PspnetPluginError
from ...transforms.check_labels import values_outside
from ...utils.datasets import scope_of
from ...utils.text import shortened
from ..models import init_model, last_head
from ..own_data.annotations.class_tables import IGNORED
from ..own_data.check import Sample, load_sample, samples_of
from ..prediction import Prediction, predict
from ..training.settings import order_problems
from .metrics import (
    BINS,
    areas_of,
    boundary_areas,
    confidence_bins,
    count_pairs,
    ious_of,
    mean_of,
    ratio,
)

SURE = 0.9  # confidence from which a model that disagrees makes a label doubtful
AGREEMENT = 0.9  # part of the other pixels that must agree with the label for that
LEAST = 3e-4  # part of the image that is worth a look
EDGE = 5  # pixels; a region that is thinner is a matter of where a border runs
NO_CLASS = np.uint16(2**16 - 1)


class Doubt(NamedTuple):
    """A region in which a label may be wrong."""

    box: tuple[int, int, int, int]  # left, top, width, height, in pixels of the image
    label: int
    predicted: int
    confidence: float  # mean over the region
    share: float  # of the image's pixels


class ImageResult(NamedTuple):
    """What was counted in one image."""

    path: str
    areas: np.ndarray  # (3, C), see areas_of
    boundary: np.ndarray  # (2, C), see boundary_areas
    doubts: list[Doubt]

    @property
    def iou(self) -> float:
        """Mean IoU of the classes that the image has, in label or prediction."""
        return float(mean_of(ious_of(self.areas)))

    @property
    def accuracy(self) -> float:
        """Part of the pixels that are right."""
        return float(ratio(self.areas[0].sum(), self.areas[1].sum()))


class Evaluation(NamedTuple):
    """A checkpoint on all images."""

    checkpoint: str
    classes: list[str]
    palette: list[list[int]]
    images: list[ImageResult]
    pairs: np.ndarray  # (C, C), see count_pairs
    bins: np.ndarray  # (3, BINS), see confidence_bins

    @property
    def areas(self) -> np.ndarray:
        """Of each image, (N, 3, C)."""
        return np.stack([image.areas for image in self.images])


def samples_in(cfg: Config, loader: str) -> list[Sample]:
    """The images of a data loader; PspnetPluginError where there are none."""
    samples = list(samples_of(cfg, (loader,)))
    if not samples:
        raise PspnetPluginError(f'The config has no images in {loader}.')
    return samples


def labelled_predictions(
    cfg: Config,
    checkpoint: str | os.PathLike,
    loader: str = 'val_dataloader',
    probabilities: bool = False,
    device: str | None = None,
) -> Iterator[tuple[np.ndarray, Prediction]]:
    """Predict the images of a data loader; yield the label map of each with its prediction.

    What the model ignores in training is no class in a label map, whichever value it has.

    Raises:
        PspnetPluginError: there are no images, or no labels, or a file cannot be read.
    """
    model: Any = init_model(cfg, checkpoint, device)
    for problem in order_problems(cfg, (loader,), model.dataset_meta['classes']):
        raise PspnetPluginError(problem)
    ignored = getattr(last_head(model), 'ignore_index', IGNORED)
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        samples = samples_in(cfg, loader)
        paths = [sample.listed['img_path'] for sample in samples]
        found = predict(model, paths, probabilities=probabilities)
        for sample, prediction in zip(track(samples, 'predicting', transient=True), found):
            labels = labels_of(sample, prediction, ignored)
            yield np.where(labels == ignored, NO_CLASS, labels), prediction


def labels_of(sample: Sample, prediction: Prediction, ignored: int) -> np.ndarray:
    """The label map of an image, (H, W); PspnetPluginError where it cannot be compared."""
    classes, shape = len(prediction.classes), prediction.label_map.shape
    labels = load_sample(sample).label_map
    if labels is None:
        raise PspnetPluginError(f'{prediction.path} has no labels to compare with.')
    if labels.shape != shape:
        raise PspnetPluginError(
            f'{prediction.path} has {shape} rows and columns, but its label map {labels.shape}: '
            'pspnet check names all such files.'
        )
    outside = values_outside(labels, classes, ignored)
    if told := [str(value) for value in outside if value != IGNORED]:
        raise PspnetPluginError(
            f'{sample.listed["seg_map_path"]} holds the label values {shortened(told, 8)}, but '
            f'there are {classes} classes: pspnet check names all such files.'
        )
    return labels


def evaluate(
    cfg: Config,
    checkpoint: str,
    loader: str,
    device: str | None,
    seen: Callable[[int, np.ndarray, Prediction], object],
) -> Evaluation:
    """Predict the images of a data loader and count.

    Args:
        seen: is called with the number, the label map and the prediction of each image.
    """
    images, pairs, bins = [], np.zeros((), np.int64), np.zeros((3, BINS))
    for labels, prediction in labelled_predictions(cfg, checkpoint, loader, True, device):
        classes, predicted = len(prediction.classes), prediction.label_map
        assert prediction.probabilities is not None
        confidence = confidence_of(prediction.probabilities, predicted)
        found = count_pairs(labels, predicted, classes)
        boundary = boundary_areas(labels, predicted, classes)
        doubts = doubts_about(labels, predicted, confidence, classes)
        images.append(ImageResult(str(prediction.path), areas_of(found), boundary, doubts))
        pairs = pairs + found
        bins += confidence_bins(confidence, labels, predicted, classes)
        seen(len(images) - 1, labels, prediction)
    return Evaluation(checkpoint, prediction.classes, prediction.palette, images, pairs, bins)


def confidence_of(probabilities: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The probability of the predicted class, (H, W), of (C, H, W) and (H, W)."""
    classes = np.minimum(predicted, len(probabilities) - 1)  # also where there is no data
    return np.take_along_axis(probabilities, classes[None].astype(np.int64), axis=0)[0]


def doubts_about(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, classes: int
) -> list[Doubt]:
    """Regions where the model is sure of another class than the label, largest first.

    Only of an image whose other pixels agree with the label: of a model that is wrong all over,
    being sure means nothing. Thin regions are left out, since borders are drawn one way or another.
    """
    counted = (labels < classes) & (predicted < classes)
    wrong = counted & (labels != predicted)
    kernel = np.ones((EDGE, EDGE), np.uint8)
    sure = cv2.morphologyEx((wrong & (confidence >= SURE)).astype(np.uint8), cv2.MORPH_OPEN, kernel)
    number, regions, found, _ = cv2.connectedComponentsWithStats(sure)
    doubts = []
    for region in range(1, number):
        left, top, width, height, area = found[region].tolist()
        others = counted.sum() - area
        agreeing = others == 0 or 1 - (wrong.sum() - area) / others >= AGREEMENT
        if area < LEAST * labels.size or not agreeing:
            continue
        inside = regions == region
        label, other = (int(np.bincount(of[inside]).argmax()) for of in (labels, predicted))
        mean = float(confidence[inside].mean())
        box = left, top, width, height
        doubts.append(Doubt(box, label, other, mean, area / labels.size))
    return sorted(doubts, key=lambda doubt: doubt.share, reverse=True)
