"""Pictures of the tables."""

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
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False)
    pixels = sorted(tables)
    for axis, name in zip(axes[0], names):
        measured = [tables[count].quantity(name) for count in pixels]
        for row in measured[0].values:
            medians = [quantity.median(row) for quantity in measured]
            axis.errorbar(pixels, medians, _spread(measured, row), marker='o', capsize=3, label=row)
        axis.set(title=name, xlabel='pixels of the feature map', ylabel='seconds')
        axis.set(xlim=(0, None), ylim=(0, None))
        axis.legend()
    _write(figure, path)


def draw_bars(tables: list[Table], path: Path) -> None:
    """A bar for each row, one panel for each quantity in seconds or bytes."""
    panels = [
        (table, quantity)
        for table in tables
        for quantity in table.quantities
        if quantity.unit != '%'
    ]
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for axis, (table, quantity) in zip(axes[0], panels):
        _draw_bars(axis, quantity)
        axis.set_title(f'{table.title}:\n{quantity.name}', fontsize=9)
    _write(figure, path)


def _draw_bars(axis: Axes, quantity: Quantity) -> None:
    scale, unit = (1, 'seconds') if quantity.unit == 's' else (1e-6, 'MB')
    rows = list(quantity.values)
    medians = [quantity.median(row) * scale for row in rows]
    spreads = [_spread([quantity], row) for row in rows]
    error = [[side[0] * scale for side in sides] for sides in zip(*spreads)]
    bars = axis.barh(rows, medians, xerr=error, capsize=3, color='tab:blue')
    first = medians[0]
    labels = [f'{median / first:.2f}' if first else '' for median in medians]
    axis.bar_label(bars, labels, label_type='center', color='white')
    axis.invert_yaxis()
    axis.set_xlabel(unit)


def _spread(measured: list[Quantity], row: str) -> list[list[float]]:
    """How far the smallest and the largest run lie from the median."""
    return [
        [quantity.median(row) - min(quantity.values[row]) for quantity in measured],
        [max(quantity.values[row]) - quantity.median(row) for quantity in measured],
    ]


def _write(figure: plt.Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
