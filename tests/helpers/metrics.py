"""Metrics of predictions in files, computed without mmseg."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

IGNORED = 255


def confusion_of_files(predictions: Path, label_maps: dict[str, Path], classes: int) -> np.ndarray:
    """How many pixels of each label were predicted as each class, a row for each label.

    Args:
        predictions: a folder of label maps.
        label_maps: the true label map for each file name in ``predictions``.
    """
    confusion = np.zeros((classes, classes))
    for name, label_map in label_maps.items():
        with Image.open(predictions / name) as image, Image.open(label_map) as truth:
            predicted, true = np.asarray(image), np.asarray(truth)
        assert predicted.shape == true.shape
        np.add.at(confusion, (true[true != IGNORED], predicted[true != IGNORED]), 1)
    return confusion


def metrics_of_files(predictions: Path, label_maps: dict[str, Path], classes: int) -> dict:
    """Percent of right pixels (aAcc) and the mean over classes of intersection / union (mIoU)."""
    confusion = confusion_of_files(predictions, label_maps, classes)
    right = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - right
    return {
        'aAcc': 100 * right.sum() / confusion.sum(),
        'mIoU': 100 * np.mean(right[union > 0] / union[union > 0]),
    }
