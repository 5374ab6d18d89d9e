"""Which class is taken for which: labels beside predictions, on validation images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config

from .evaluation import labelled_predictions
from .metrics import areas_of, count_pairs, ious_of
from .runs import save

WRITTEN = 25  # classes, up to which numbers stand in the squares


class Confusion(NamedTuple):
    """Pixels of each label that were predicted as each class."""

    counts: np.ndarray  # (classes, classes) int64, a row for each label
    classes: list[str]  # their names

    @property
    def ious(self) -> np.ndarray:
        """Intersection over union of each class, 0 to 1; NaN for one that is nowhere."""
        return ious_of(areas_of(self.counts))


def confusion_of(cfg: Config, checkpoint: str | os.PathLike) -> Confusion:
    """Predict the validation images of ``cfg`` and count; pixels that are ignored do not count.

    Raises:
        PspnetPluginError: there are no validation images, or a file cannot be read.
    """
    counts, classes = np.zeros((), np.int64), list[str]()
    for labels, prediction in labelled_predictions(cfg, checkpoint):
        classes = prediction.classes
        counts = counts + count_pairs(labels, prediction.label_map, len(classes))
    return Confusion(counts, classes)


def draw_confusion(found: Confusion, path: Path) -> None:
    """Draw the matrix into an image file."""
    save(confusion_figure(found), path)


def confusion_figure(found: Confusion) -> Figure:
    """The matrix: each row is a label, its squares are percentages of its pixels."""
    number = len(found.classes)
    total = found.counts.sum(1, keepdims=True)
    percent = 100 * found.counts / np.maximum(total, 1)
    side = 3 + min(max(number, 4), 60) * 0.45
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(percent, vmin=0, vmax=100, cmap='Blues')
    ious = [f'{name} ({100 * iou:.0f})' for name, iou in zip(found.classes, found.ious)]
    axes.set_xticks(range(number), found.classes, rotation=90, parse_math=False)
    axes.set_yticks(range(number), ious, parse_math=False)
    axes.set(xlabel='predicted', ylabel='label (IoU in %)')
    for row, column in np.ndindex(number, number) if number <= WRITTEN else ():
        value = percent[row, column]
        color = 'white' if value > 50 else 'black'
        axes.text(column, row, f'{value:.0f}', ha='center', va='center', color=color)
    figure.colorbar(image, label='% of the pixels of a label')
    return figure
