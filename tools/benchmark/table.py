"""Tables of measured quantities, with ratios to other rows and the values that are wanted."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table as RichTable

ABOVE = 'the row above'


class Beside(NamedTuple):
    """A row, or ABOVE, that the other rows are compared with."""

    row: str
    as_speed: bool = True  # times are given as 'N x as fast', not as 'N x the time'


class Wanted(NamedTuple):
    """The range in which a row's ratio should lie, or without ``beside`` its median."""

    quantity: str
    row: str
    beside: str | None
    low: float | None = None
    high: float | None = None


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
    beside: tuple[Beside, ...]
    quantities: tuple[Quantity, ...]
    wanted: tuple[Wanted, ...] = ()

    def quantity(self, name: str) -> Quantity:
        return next(quantity for quantity in self.quantities if quantity.name == name)

    def ratio(self, quantity: Quantity, row: str, beside: Beside) -> float | None:
        """How many times as fast as the other row, or how many times its amount.

        None where there is nothing to compare: in '%', with itself, or with nothing.
        """
        rows = list(quantity.values)
        place = rows.index(row)
        other = rows[place - 1] if beside.row == ABOVE and place else beside.row
        if quantity.unit == '%' or other not in rows or other == row:
            return None
        own, others = quantity.median(row), quantity.median(other)
        if quantity.unit == 's' and beside.as_speed:
            own, others = others, own
        return own / others if others else None

    def missed(self) -> list[str]:
        """A sentence for each wanted value that was not reached."""
        return [
            f'{self.title}: {wanted.quantity} of {wanted.row} is {_number(value)}, '
            f'wanted {self.describe(wanted)}'
            for wanted in self.wanted
            if not _reached(value := self._value(wanted), wanted)
        ]

    def _value(self, wanted: Wanted) -> float | None:
        quantity = self.quantity(wanted.quantity)
        if wanted.beside is None:
            return quantity.median(wanted.row)
        return self.ratio(quantity, wanted.row, self._beside(wanted))

    def _beside(self, wanted: Wanted) -> Beside:
        return next(beside for beside in self.beside if beside.row == wanted.beside)

    def describe(self, wanted: Wanted) -> str:
        """``at least 1.9 x as fast as stock``."""
        bounds = [('at least', wanted.low), ('at most', wanted.high)]
        text = ', '.join(f'{word} {bound:g}' for word, bound in bounds if bound is not None)
        quantity = self.quantity(wanted.quantity)
        if wanted.beside is None:
            return f'{text} {quantity.unit}'
        fast = quantity.unit == 's' and self._beside(wanted).as_speed
        return f'{text} x {"as fast as" if fast else "that of"} {wanted.beside}'

    def header(self) -> list[str]:
        compared = [f'beside {beside.row}' for beside in self.beside]
        return ['quantity', 'variant', 'median', 'min to max', *compared, 'wanted']

    def lines(self) -> Iterator[list[str]]:
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
                    *(self._ratio_cell(quantity, row, beside) for beside in self.beside),
                    '; '.join(self.describe(one) for one in wanted),
                ]

    def _ratio_cell(self, quantity: Quantity, row: str, beside: Beside) -> str:
        ratio = self.ratio(quantity, row, beside)
        if ratio is None:
            return ''
        fast = quantity.unit == 's' and beside.as_speed
        return f'{_number(ratio)} x{" as fast" if fast else ""}'

    def as_markdown(self) -> str:
        header = self.header()
        rule = ['---' if place < 2 else '---:' for place in range(len(header))]
        lines = [f'| {" | ".join(cells)} |' for cells in (header, rule, *self.lines())]
        return '\n'.join([f'### {self.title}', '', *lines])

    def as_rich(self) -> RichTable:
        table = RichTable(title=self.title)
        for place, name in enumerate(self.header()):
            table.add_column(name, justify='left' if place < 2 else 'right')
        for cells in self.lines():
            first_of_quantity = cells[1] == next(iter(self.quantity(cells[0]).values))
            if first_of_quantity and table.row_count:
                table.add_section()
            table.add_row(cells[0] if first_of_quantity else '', *cells[1:])
        return table


def _reached(value: float | None, wanted: Wanted) -> bool:
    if value is None:
        return False
    return (wanted.low is None or value >= wanted.low) and (
        wanted.high is None or value <= wanted.high
    )


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
