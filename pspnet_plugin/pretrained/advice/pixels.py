"""Whether a model normalizes its images as those were that pretrained weights come from."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

from torch import nn

from ..match.adapt import CLASSIFIER
from ..report import LoadReport

# References to weights whose images had ImageNet's mean and standard deviation, all of them RGB.
IMAGENET = re.compile(r'torchvision://|mmseg://pspnet_|open-mmlab://resne[stx]+t?\d+(?!.*caffe)')
IMAGENET_PIXELS = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
TIMM = re.compile(r'(?:timm://|hf://timm/)([^/@]+)')  # the name of a model, with its tag
TOLERANCE = 2.0  # of 255: some round 127.5 to 127 or 128


def note_pixels(report: LoadReport, model: nn.Module) -> None:
    """Add a note to ``report`` where ``model`` prepares its images otherwise than expected.

    ``model`` is the whole one, with the ``data_preprocessor``. There is nothing to expect of images
    with other channels than RGB, or in other units than 0 to 255.
    """
    expected = expected_pixels(report.reference)
    preprocessor: Any = getattr(model, 'data_preprocessor', None)
    normalizes = getattr(preprocessor, '_enable_normalize', None)
    only_colours = all(map(CLASSIFIER.search, report.adapted))
    if expected is None or normalizes is None or not only_colours:
        return
    kept = [preprocessor.mean, preprocessor.std] if normalizes else []
    mean, std = [tensor.flatten().tolist() for tensor in kept] or (None, None)
    if max(mean or [0]) > 255:
        return
    # MMSegmentation's has one name, mmengine's the other.
    converts = getattr(preprocessor, 'channel_conversion', False)
    converts = converts or getattr(preprocessor, '_channel_conversion', False)
    if not (converts and all(map(_alike, (mean, std), expected))):
        report.notes.append(
            f'these weights expect images with {_told(*expected, True)} in the data_preprocessor, '
            f'for files as OpenCV reads them; it has {_told(mean, std, converts)}'
        )


def expected_pixels(reference: str) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of R, G and B, 0 to 255, for weights of a known source."""
    told = TIMM.match(reference)
    if told and importlib.util.find_spec('timm'):  # hf:// needs no timm
        config = importlib.import_module('timm').get_pretrained_cfg(told.group(1))
        if config is None:
            return None
        return [255 * value for value in config.mean], [255 * value for value in config.std]
    return IMAGENET_PIXELS if IMAGENET.match(reference) else None


def _alike(here: list[float] | None, expected: list[float]) -> bool:
    same_length = here is not None and len(here) == len(expected)
    return same_length and all(abs(a - b) <= TOLERANCE for a, b in zip(here or (), expected))


def _told(mean: list[float] | None, std: list[float] | None, rgb: bool) -> str:
    mean, std = ([round(v, 2) for v in values] if values else None for values in (mean, std))
    return f'mean={mean}, std={std} and bgr_to_rgb={bool(rgb)}'
