"""The table of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from .measuring import Row


def tabulate(rows: Sequence[Row], markdown: bool = False) -> Table:
    """A line for each row, with its ratios to stock, the first row of the same sub_label."""
    table = Table('measured', 'variant', box=box.MARKDOWN if markdown else box.HEAVY_HEAD)
    for name in ('median', 'min to max', 'beside stock', 'peak memory', 'beside stock'):
        table.add_column(name, justify='right')
    predicted = any(row.equal_labels is not None for row in rows)
    if predicted:
        table.add_column('labels equal to stock', justify='right')
    stocks: dict[str, Row] = {}
    for row in rows:
        measured = f'{row.time.label}, {row.time.sub_label}'
        cells = [measured, row.time.description, *compared(row, stocks.setdefault(measured, row))]
        if predicted:
            cells.append('' if row.equal_labels is None else f'{row.equal_labels:.4f} %')
        table.add_row(*cells)
    return table


def compared(row: Row, stock: Row) -> list[str]:
    """Time and memory of a row, each with its ratio to stock's."""
    times = f'{seconds(min(row.time.times))} to {seconds(max(row.time.times))}'
    speed = f'{stock.time.median / row.time.median:.2f} x as fast' if row is not stock else ''
    memory = f'{row.memory / stock.memory:.2f} x' if row is not stock and stock.memory else ''
    return [seconds(row.time.median), times, speed, megabytes(row.memory), memory]


def seconds(value: float) -> str:
    return f'{value:.2f} s' if value >= 1 else f'{value * 1e3:.4g} ms'


def megabytes(value: int) -> str:
    return '' if not value else f'{value / 1e6:,.{0 if value >= 1e7 else 2}f} MB'
