"""Tables of measured quantities, with ratios to other rows and the values that are wanted."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rich import box
from rich.table import Table as RichTable

from pspnet_plugin.utils.text import table_as_text

ABOVE = 'the row above'
NO_WRAPPING = 1000  # characters, more than any line of a table has


class Baseline(NamedTuple):
    """A row, or ABOVE, that the other rows are compared with."""

    row: str
    as_speed: bool = True  # times are given as 'N x as fast', not as 'N x the time'
    rows: dict[str, str] | None = None  # for each row, where they are not all compared with one


class Wanted(NamedTuple):
    """The range in which a row's ratio to a baseline should lie, or its median without one."""

    quantity: str
    row: str
    baseline: str | None
    low: float | None = None
    high: float | None = None

    def reached(self, value: float | None) -> bool:
        """Whether ``value`` lies in the range; None, a ratio that is not known, does not."""
        if value is None:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class Quantity:
    """One thing measured: in 's', 'bytes' or '%', all runs of each row in their order."""

    name: str
    unit: str
    values: dict[str, list[float]]

    def median(self, row: str) -> float:
        return statistics.median(self.values[row])


@dataclass(frozen=True)
class Table:
    """Quantities of the same rows; the first row of each has nothing above it."""

    title: str
    baselines: tuple[Baseline, ...]
    quantities: tuple[Quantity, ...]
    wanted: tuple[Wanted, ...] = ()

    def quantity(self, name: str) -> Quantity:
        return next(quantity for quantity in self.quantities if quantity.name == name)

    def ratio(self, quantity: Quantity, row: str, baseline: Baseline) -> float | None:
        """How many times as fast as the baseline, or how many times its amount.

        None where there is nothing to compare: in '%', with itself, or with nothing.
        """
        rows = list(quantity.values)
        place = rows.index(row)
        other = rows[place - 1] if baseline.row == ABOVE and place else baseline.row
        if baseline.rows is not None:
            other = baseline.rows[row]
        if quantity.unit == '%' or other not in rows or other == row:
            return None
        own, others = quantity.median(row), quantity.median(other)
        if quantity.unit == 's' and baseline.as_speed:
            own, others = others, own
        return own / others if others else None

    def missed(self) -> list[str]:
        """A sentence for each wanted value that was not reached."""
        return [
            f'{self.title}: {wanted.quantity} of {wanted.row} is {_number(value)}, '
            f'wanted {self.describe(wanted)}'
            for wanted in self.wanted
            if not wanted.reached(value := self._value(wanted))
        ]

    def _value(self, wanted: Wanted) -> float | None:
        quantity = self.quantity(wanted.quantity)
        if wanted.baseline is None:
            return quantity.median(wanted.row)
        return self.ratio(quantity, wanted.row, self._baseline(wanted))

    def _baseline(self, wanted: Wanted) -> Baseline:
        return next(baseline for baseline in self.baselines if baseline.row == wanted.baseline)

    def describe(self, wanted: Wanted) -> str:
        """``at least 1.9 x as fast as stock``."""
        bounds = [('at least', wanted.low), ('at most', wanted.high)]
        text = ', '.join(f'{word} {bound:g}' for word, bound in bounds if bound is not None)
        quantity = self.quantity(wanted.quantity)
        if wanted.baseline is None:
            return f'{text} {quantity.unit}'
        fast = quantity.unit == 's' and self._baseline(wanted).as_speed
        return f'{text} x {"as fast as" if fast else "that of"} {wanted.baseline}'

    def as_rich(self) -> RichTable:
        """The table for a terminal."""
        table = RichTable(title=self.title)
        compared = [f'beside {baseline.row}' for baseline in self.baselines]
        header = ['quantity', 'variant', 'median', 'min to max', *compared, 'wanted']
        for place, name in enumerate(header):
            table.add_column(name, justify='left' if place < 2 else 'right')
        for cells in self._lines():
            table.add_row(*cells)
        return table

    def as_markdown(self) -> str:
        table = self.as_rich()
        table.title, table.box = None, box.MARKDOWN
        return f'### {self.title}\n\n{table_as_text(table, NO_WRAPPING)}'

    def _lines(self) -> Iterator[list[str]]:
        """The cells of each line below the header."""
        for quantity in self.quantities:
            for row, values in quantity.values.items():
                ends = (min(values), max(values)) if len(values) > 1 else ()
                wanted = [w for w in self.wanted if (w.quantity, w.row) == (quantity.name, row)]
                yield [
                    quantity.name,
                    row,
                    _with_unit(quantity.median(row), quantity.unit),
                    ' to '.join(_with_unit(value, quantity.unit) for value in ends),
                    *(self._ratio_cell(quantity, row, baseline) for baseline in self.baselines),
                    '; '.join(self.describe(one) for one in wanted),
                ]

    def _ratio_cell(self, quantity: Quantity, row: str, baseline: Baseline) -> str:
        ratio = self.ratio(quantity, row, baseline)
        if ratio is None:
            return ''
        fast = quantity.unit == 's' and baseline.as_speed
        return f'{_number(ratio)} x{" as fast" if fast else ""}'


def _number(value: float | None) -> str:
    if value is None:
        return 'unknown'
    return f'{value:.2f}' if value >= 0.1 else f'{value:.2g}'


def _with_unit(value: float, unit: str) -> str:
    if unit == 's':
        return f'{value:.2f} s' if value >= 1 else f'{value * 1e3:.1f} ms'
    if unit == 'bytes':
        return f'{value / 1e6:,.0f} MB' if value >= 1e7 else f'{value / 1e6:.2f} MB'
    return f'{value:.4f} {unit}'
