"""One page that shows how good checkpoints are, in one file that fetches nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure

from ...errors import PspnetPluginError
from ...utils.files import write_whole
from .confusion import confusion_figure
from .evaluation import Evaluation
from .metrics import (
    calibration_error,
    interval,
    ious_of,
    mean_of,
    percent,
    percents,
    ratio,
    resampled_ious,
)
from .pictures import encoded_figure

DOUBTS = 100  # that are listed


class Pictures(NamedTuple):
    """The pictures of one image, in base64; see :mod:`.pictures`."""

    size: tuple[int, ...]  # width and height of the image itself
    image: str
    label: str
    predictions: list[str]  # one for each checkpoint


class Origin(NamedTuple):
    """Where a page comes from."""

    title: str
    dataset: str  # which images, in words
    command: str  # that makes the page again
    versions: str
    config: str  # its text


def page_text(
    evaluations: Sequence[Evaluation],
    pictures: Sequence[Pictures],
    curves: str | None,
    loads: Sequence[dict[str, Any]],
    origin: Origin,
) -> str:
    """The page as HTML.

    Args:
        evaluations: of one or several checkpoints, on the same images in the same order; the others
            are compared with the first.
        pictures: of the images.
        curves: of the first checkpoint's run, SVG in base64; None where there is no log.
        loads: reports of pretrained weights that were loaded when that run began.
    """
    first = evaluations[0]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, percents=percents)
    draws = [resampled_ious(evaluation.areas) for evaluation in evaluations]
    return environment.get_template('page.html').render(
        origin=origin,
        images=len(pictures),
        classes=first.classes,
        palette=first.palette,
        checkpoints=[
            summary(evaluation, drawn, first, draws[0])
            for evaluation, drawn in zip(evaluations, draws)
        ],
        curves=curves,
        loads=loads,
        data=page_data(evaluations, pictures),
    )


def write_page(path: Path, text: str) -> None:
    """Write the page whole or not at all."""
    with write_whole(path, 'w', encoding='utf-8', errors='replace') as file:
        file.write(text)


def summary(
    found: Evaluation, draws: np.ndarray, first: Evaluation, first_draws: np.ndarray
) -> dict[str, Any]:
    """The numbers of a checkpoint, 0 to 1, with intervals, and its difference from the first."""
    images = len(found.images)
    areas = found.areas.sum(0)
    ious = ious_of(areas)
    boundary = np.sum([image.boundary for image in found.images], axis=0)
    better = [b.iou - a.iou for a, b in zip(first.images, found.images)]
    difference = draws - first_draws
    return {
        'name': found.checkpoint,
        'miou': mean_of(ious),
        'miou_interval': interval(mean_of(draws), images),
        'accuracy': ratio(areas[0].sum(), areas[1].sum()),
        'change': mean_of(ious) - mean_of(ious_of(first.areas.sum(0))),
        'change_interval': interval(mean_of(draws) - mean_of(first_draws), images),
        'better': sum(change > 0 for change in better),
        'worse': sum(change < 0 for change in better),
        'classes': {
            'iou': ious,
            'interval': interval(draws, images).T,
            'precision': ratio(areas[0], areas[2]),
            'recall': ratio(areas[0], areas[1]),
            'boundary': ratio(*boundary),
            'support': areas[1] / max(areas[1].sum(), 1),
            'images': (found.areas[:, 1] > 0).sum(0),
            'change': ious - ious_of(first.areas.sum(0)),
            'change_interval': interval(difference, images).T,
        },
        'calibration_error': calibration_error(found.bins),
        'calibration': encoded_figure(calibration_figure(found.bins)),
        'confusion': encoded_figure(confusion_figure(found.pairs, found.classes)),
    }


def calibration_figure(bins: np.ndarray) -> Figure:
    """Accuracy over confidence, and how many pixels have it; bins as of confidence_bins."""
    pixels, confidence, right = bins
    figure = Figure(figsize=(4.5, 4.5), layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={'height_ratios': (3, 1)})
    edges = np.linspace(0, 1, len(pixels) + 1)
    upper.bar(edges[:-1], ratio(right, pixels), 1 / len(pixels), align='edge', edgecolor='white')
    upper.plot(ratio(confidence, pixels), ratio(right, pixels), 'o', color='tab:orange')
    upper.plot([0, 1], [0, 1], '--', color='grey')
    upper.set(ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
    lower.bar(edges[:-1], pixels / max(pixels.sum(), 1), 1 / len(pixels), align='edge')
    lower.set(ylabel='of the pixels', xlabel='confidence')
    return figure


def page_data(evaluations: Sequence[Evaluation], pictures: Sequence[Pictures]) -> dict[str, Any]:
    """What the page's script needs, as plain values."""
    first = evaluations[0]
    paths = [os.path.abspath(image.path) for image in first.images]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths])
    doubts = [
        {'image': number, **doubt._asdict()}
        for number, image in enumerate(first.images)
        for doubt in image.doubts
    ]
    doubts.sort(key=lambda doubt: doubt['share'], reverse=True)
    found = zip(pictures, paths, *(evaluation.images for evaluation in evaluations))
    return {
        'classes': first.classes,
        'palette': first.palette,
        'checkpoints': [evaluation.checkpoint for evaluation in evaluations],
        'doubts': doubts[:DOUBTS],
        'images': [
            {
                **shown._asdict(),
                'name': os.path.relpath(path, folder),
                'iou': [number_or_none(result.iou) for result in results],
                'accuracy': [number_or_none(result.accuracy) for result in results],
                'ious': [class_ious(result.areas) for result in results],
            }
            for shown, path, *results in found
        ],
    }


def class_ious(areas: np.ndarray) -> dict[int, float | None]:
    """The IoU of each class that an image has, in label or prediction."""
    ious = ious_of(areas)
    return {int(number): number_or_none(ious[number]) for number in np.flatnonzero(ious == ious)}


def number_or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else round(float(value), 4)


def reports_of_loads(work_dir: Path) -> list[dict[str, Any]]:
    """The reports of pretrained weights that the newest start of a run has left in its folder."""
    files = sorted(work_dir.glob('*/pretrained_*.json'))
    newest = [file for file in files if file.parent == files[-1].parent]
    reports = []
    for file in newest:
        try:
            reports.append(json.loads(file.read_text(encoding='utf-8')))
        except ValueError as error:  # of JSON, or of UTF-8
            raise PspnetPluginError(f'{file} is damaged ({error}): remove it.') from error
    return reports
