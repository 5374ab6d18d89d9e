"""What folds say together: tables of cross-validation."""

from __future__ import annotations

import numpy as np
from rich.table import Column, Table

from ...utils.text import table_as_text
from .metrics import interval, ious_of, mean_of, percent, percents, resampled_ious


def table_of_classes(folds: list[np.ndarray], classes: list[str]) -> str:
    """IoU of each class over the images of all folds, and how it differs between folds.

    Args:
        folds: the areas of the images of each, (N, 3, C).
    """

    def with_mean(ious: np.ndarray) -> np.ndarray:
        return np.concatenate([ious, mean_of(ious)[..., None]], axis=-1)

    areas = np.concatenate(folds)
    pooled = with_mean(ious_of(areas.sum(0)))
    bounds = interval(with_mean(resampled_ious(areas)), len(areas))
    of_folds = with_mean(ious_of(np.stack([fold.sum(0) for fold in folds])))
    headings = 'IoU (%)', '95 % interval', 'mean of folds', 'range'
    columns = [Column(heading, justify='right') for heading in headings]
    title = f'{len(areas)} images, each predicted by a run that has not seen it'
    table = Table('class', *columns, title=title)
    for number, name in enumerate([*classes, 'mean']):
        values = of_folds[:, number]
        there = values[~np.isnan(values)]
        limits = (there.min(), there.max()) if there.size else (np.nan, np.nan)
        row = percent(pooled[number]), percents(bounds[:, number])
        table.add_row(name, *row, percent(mean_of(values)), percents(limits))
    return table_as_text(table)


def learning_curve(found: dict[float, list[np.ndarray]]) -> str:
    """mIoU over the share of the labels, and what the last half of them has changed.

    Args:
        found: the areas of the images of each fold, by share; 0.5 and 1 are among them.
    """
    areas = {share: np.concatenate(folds) for share, folds in sorted(found.items())}
    draws = {share: mean_of(resampled_ious(some)) for share, some in areas.items()}
    mious = {share: mean_of(ious_of(some.sum(0))) for share, some in areas.items()}
    columns = [Column(h, justify='right') for h in ('labels', 'mIoU (%)', '95 % interval')]
    table = Table(*columns, title='learning curve')
    for share, drawn in draws.items():
        told = percents(interval(drawn, len(areas[share])))
        table.add_row(f'{100 * share:.0f} %', percent(mious[share]), told)
    bounds = interval(draws[1.0] - draws[0.5], len(areas[1.0]))
    likely = 'are likely to help' if bounds[0] > 0 else 'may not help'
    return (
        f'{table_as_text(table)}\nFrom half of the labels to all of them mIoU changes by '
        f'{percent(mious[1.0] - mious[0.5])} ({percents(bounds)}): more labels {likely}.'
    )
