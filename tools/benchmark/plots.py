"""Figures of the tables."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .table import Quantity, Table


def draw_over_sizes(tables: dict[int, Table], names: list[str], path: Path) -> None:
    """Time over the number of pixels of the feature map, one panel for each quantity.

    Args:
        tables: by number of pixels.
        names: of the quantities.
    """
    figure, axes = _panels(len(names))
    pixels = sorted(tables)
    for axis, name in zip(axes, names):
        measured = [tables[count].quantity(name) for count in pixels]
        for row in measured[0].values:
            medians = [quantity.median(row) for quantity in measured]
            axis.errorbar(pixels, medians, _spread(measured, row), marker='o', capsize=3, label=row)
        axis.set(title=name, xlabel='pixels of the feature map', ylabel='seconds')
        axis.set(xlim=(0, None), ylim=(0, None))
        axis.legend()
    _write(figure, path)


def draw_bars(table: Table, path: Path) -> None:
    """A bar for each row with its share of the first row's, one panel for each time and memory."""
    measured = [quantity for quantity in table.quantities if quantity.unit != '%']
    figure, axes = _panels(len(measured))
    for axis, quantity in zip(axes, measured):
        _draw_bars(axis, quantity)
    figure.suptitle(table.title)
    _write(figure, path)


def _draw_bars(axis: Axes, quantity: Quantity) -> None:
    scale, unit = (1, 'seconds') if quantity.unit == 's' else (1e-6, 'MB')
    medians = {row: quantity.median(row) for row in quantity.values}
    first = next(iter(medians.values()))
    lows, highs = zip(*(_spread([quantity], row) for row in medians))
    axis.barh(
        [f'{row}\n{median / first:.2f} x' if first else row for row, median in medians.items()],
        [median * scale for median in medians.values()],
        xerr=[[side[0] * scale for side in sides] for sides in (lows, highs)],
        capsize=3,
    )
    axis.invert_yaxis()
    axis.set(title=quantity.name, xlabel=unit)


def _panels(count: int) -> tuple[plt.Figure, list[Axes]]:
    figure, axes = plt.subplots(
        1, count, figsize=(5 * count, 4), squeeze=False, layout='constrained'
    )
    return figure, list(axes[0])


def _spread(measured: list[Quantity], row: str) -> list[list[float]]:
    """How far the smallest and the largest run lie from the median."""
    return [
        [quantity.median(row) - min(quantity.values[row]) for quantity in measured],
        [max(quantity.values[row]) - quantity.median(row) for quantity in measured],
    ]


def _write(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
