"""How good label maps are: areas of classes, their boundaries, calibration, and intervals."""

from __future__ import annotations

import warnings
from typing import Any

import cv2
import numpy as np
from scipy import stats

BOUNDARY = 0.02  # width of a boundary, as a part of the image's diagonal
BINS = 15  # of confidences
DRAWS = 2000  # of the bootstrap


def count_pairs(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How often each class was predicted for each label, (classes, classes); both are (H, W).

    Pixels are ignored whose label is no class, and those without data, which have no prediction.
    """
    counted = (labels < classes) & (predicted < classes)
    pairs = labels[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def areas_of(pairs: np.ndarray) -> np.ndarray:
    """(C, C) counts -> (3, C): pixels in label and prediction, in the label, in the prediction."""
    return np.stack([np.diag(pairs), pairs.sum(1), pairs.sum(0)])


def ious_of(areas: np.ndarray) -> np.ndarray:
    """(..., 3, C) areas -> (..., C) intersection over union; NaN for a class that is nowhere."""
    both = areas[..., 0, :]
    return ratio(both, areas[..., 1, :] + areas[..., 2, :] - both)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, NaN where there is nothing."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)


def mean_of(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis of the values that are there; NaN where none is."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # of an image without any label
        return np.nanmean(values, axis=-1)


# --- boundaries -----------------------------------------------------------------------------------


def boundary_areas(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """What the boundaries of a class in label and prediction share, and cover together: (2, C).

    Their quotient is the boundary IoU of Cheng and others (CVPR 2021): the IoU of the pixels of
    each mask that are no further from its contour than 2 % of the image's diagonal. As there, the
    border of the image counts as contour; so do ignored pixels.
    """
    width = max(1, round(BOUNDARY * float(np.hypot(*labels.shape))))
    counted = (labels < classes) & (predicted < classes)
    found = np.zeros((2, classes), np.int64)
    for number in np.union1d(labels[counted], predicted[counted]):
        label = boundary_of(counted & (labels == number), width)
        prediction = boundary_of(counted & (predicted == number), width)
        found[:, number] = (label & prediction).sum(), (label | prediction).sum()
    return found


def boundary_of(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask within ``width`` of its contour, (H, W) bool."""
    padded = np.pad(mask, 1).astype(np.uint8)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (inner == 0)


# --- calibration ----------------------------------------------------------------------------------


def confidence_bins(
    confidence: np.ndarray, labels: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
    """Pixels, the sum of their confidences, and how many are right, by confidence: (3, BINS)."""
    counted = (labels < classes) & (predicted < classes)
    values = confidence[counted].astype(np.float64)
    right = labels[counted] == predicted[counted]
    bins = np.clip(np.ceil(values * BINS).astype(int) - 1, 0, BINS - 1)
    weights = (None, values, right)
    return np.stack([np.bincount(bins, weight, minlength=BINS) for weight in weights])


def calibration_error(bins: np.ndarray) -> float:
    """The expected calibration error: how far confidence and accuracy are apart, on average."""
    pixels, confidence, right = bins
    return float(np.abs(confidence - right).sum() / pixels.sum()) if pixels.sum() else float('nan')


# --- intervals ------------------------------------------------------------------------------------


def resampled_ious(areas: np.ndarray) -> np.ndarray:
    """IoU of each class over images drawn with replacement, (DRAWS, C).

    Arrays of as many images are drawn alike, so the difference of two results is a paired one.

    Args:
        areas: (N, 3, C), of N images.
    """
    images = len(areas)
    drawn = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), DRAWS)
    flat = areas.reshape(images, -1).astype(np.float64)
    return ious_of((drawn @ flat).reshape(DRAWS, *areas.shape[1:]))


def interval(draws: np.ndarray, images: int) -> np.ndarray:
    """A 95 % interval from bootstrap draws over ``images`` images, along the first axis: (2, ...).

    Percentiles of the draws are too narrow an interval for few images. They are taken further out,
    by the ratio of Student's t to the normal distribution (Hesterberg 2015, section 5.3). NaN where
    one image tells nothing about others.
    """
    if images < 2:
        return np.full((2, *draws.shape[1:]), np.nan)
    tail = stats.norm.cdf(np.sqrt(images / (images - 1)) * stats.t.ppf(0.025, images - 1))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # of a class that is nowhere
        return np.nanquantile(draws, [tail, 1 - tail], axis=0)


def percent(value: Any, digits: int = 1) -> str:
    """0 to 1 as a percentage, a dash for NaN."""
    return '-' if value != value else f'{100 * value:.{digits}f}'


def percents(bounds: Any, digits: int = 1) -> str:
    """The lower and the upper end of an interval."""
    return f'{percent(bounds[0], digits)} to {percent(bounds[1], digits)}'
