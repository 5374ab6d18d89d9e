"""Which class is taken for which: labels beside predictions, on validation images."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config

from .evaluation import labelled_predictions
from .metrics import areas_of, count_pairs, ious_of

WRITTEN = 25  # classes, up to which numbers stand in the squares


def confusion_of(cfg: Config, checkpoint: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """Predict the validation images of ``cfg`` and count; pixels that are ignored do not count.

    Returns:
        Pixels of each label that were predicted as each class, see :func:`count_pairs`; the names
        of the classes.

    Raises:
        PspnetPluginError: there are no validation images, or a file cannot be read.
    """
    counts, classes = np.zeros((), np.int64), list[str]()
    for labels, prediction in labelled_predictions(cfg, checkpoint):
        classes = prediction.classes
        counts = counts + count_pairs(labels, prediction.label_map, len(classes))
    return counts, classes


def confusion_figure(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """The matrix of :func:`confusion_of`, each row in percent of the pixels of its label."""
    number = len(classes)
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 3 + min(max(number, 4), 60) * 0.45
    figure = Figure(figsize=(side + 1, side), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(percent, vmin=0, vmax=100, cmap='Blues')
    ious = [f'{name} ({100 * iou:.0f})' for name, iou in zip(classes, ious_of(areas_of(counts)))]
    axes.set_xticks(range(number), classes, rotation=90, parse_math=False)
    axes.set_yticks(range(number), ious, parse_math=False)
    axes.set(xlabel='predicted', ylabel='label (IoU in %)')
    for row, column in np.ndindex(number, number) if number <= WRITTEN else ():
        value = percent[row, column]
        color = 'white' if value > 50 else 'black'
        axes.text(column, row, f'{value:.0f}', ha='center', va='center', color=color)
    figure.colorbar(image, label='% of the pixels of a label')
    return figure
