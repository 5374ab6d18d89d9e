"""Which class is taken for which: labels beside predictions, on validation images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import DefaultScope
from rich.progress import track

from ...errors import PspnetPluginError
from ...utils.datasets import scope_of
from ..models import init_model
from ..own_data.check import load_sample, samples_of
from ..prediction import predict
from .runs import save

WRITTEN = 25  # classes, up to which numbers stand in the squares


class Confusion(NamedTuple):
    """Pixels of each label that were predicted as each class."""

    counts: np.ndarray  # (classes, classes) int64, a row for each label
    classes: list[str]  # their names

    @property
    def ious(self) -> np.ndarray:
        """Intersection over union of each class, 0 to 1; NaN for one that is nowhere."""
        both = np.diag(self.counts)
        union = self.counts.sum(0) + self.counts.sum(1) - both
        return np.divide(both, union, out=np.full(len(both), np.nan), where=union > 0)


def confusion_of(cfg: Config, checkpoint: str | os.PathLike) -> Confusion:
    """Predict the validation images of ``cfg`` and count; pixels that are ignored do not count.

    Raises:
        PspnetPluginError: there are no validation images, or a file cannot be read.
    """
    model: Any = init_model(cfg, checkpoint)
    classes = list(model.dataset_meta['classes'])
    counts = np.zeros((len(classes), len(classes)), np.int64)
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        samples = list(samples_of(cfg, ('val_dataloader',)))
        if not samples:
            raise PspnetPluginError('The config has no validation images (val_dataloader).')
        paths = [sample.listed['img_path'] for sample in samples]
        shown = track(samples, 'predicting', transient=True)
        for sample, prediction in zip(shown, predict(model, paths)):
            _, labels = load_sample(sample)
            if labels is None:
                raise PspnetPluginError(f'{prediction.path} has no labels to compare with.')
            counts += count_pairs(labels, prediction.label_map, len(classes))
    return Confusion(counts, classes)


def count_pairs(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often each class was predicted for each label, (classes, classes); both are (H, W)."""
    counted = labels < classes
    pairs = labels[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def draw_confusion(found: Confusion, path: Path) -> None:
    """Draw the matrix: each row is a label, its squares are percentages of its pixels."""
    number = len(found.classes)
    total = found.counts.sum(1, keepdims=True)
    percent = 100 * found.counts / np.maximum(total, 1)
    side = 3 + min(max(number, 4), 60) * 0.45
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(percent, vmin=0, vmax=100, cmap='Blues')
    ious = [f'{name} ({100 * iou:.0f})' for name, iou in zip(found.classes, found.ious)]
    axes.set_xticks(range(number), found.classes, rotation=90)
    axes.set_yticks(range(number), ious)
    axes.set(xlabel='predicted', ylabel='label (IoU in %)')
    for row, column in np.ndindex(number, number) if number <= WRITTEN else ():
        value = percent[row, column]
        color = 'white' if value > 50 else 'black'
        axes.text(column, row, f'{value:.0f}', ha='center', va='center', color=color)
    figure.colorbar(image, label='% of the pixels of a label')
    save(figure, path)
