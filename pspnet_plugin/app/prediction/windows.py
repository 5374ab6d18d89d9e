"""An image of any size in overlapping windows, whose predictions are blended.

Each window's class probabilities are weighted by a tent that falls to nearly zero at its borders,
and summed where windows overlap, so that no border shows. The weights are a product of one of the
rows and one of the columns. A block of the result is final, and leaves memory, as soon as no later
window reaches it; kept are one window, and the rows in which two rows of windows overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple

import torch
from torch import Tensor

GRID = 32  # pixels; the strides of all common networks divide it


class Block(NamedTuple):
    """A final part of the result, and its upper left pixel in the image."""

    row: int
    column: int
    probabilities: Tensor  # (C, h, w) float32; the sum over the classes is 1

    @property
    def area(self) -> tuple[int, int, int, int]:
        """Row, column, height and width."""
        return self.row, self.column, self.probabilities.shape[1], self.probabilities.shape[2]


class Window(NamedTuple):
    """The rows, or the columns, of a window."""

    start: int
    weights: Tensor  # of each, (size,); at every pixel the weights of all windows add up to 1
    shared: int  # how many the next window has, too


def predict_in_windows(
    size: tuple[int, int],
    window: int,
    overlap: int,
    probabilities_of: Callable[[int, int, int, int], Tensor],
) -> Iterator[Block]:
    """Predict an image window by window, and yield the parts of the result in order.

    Args:
        size: height and width of the image.
        window: the side of the windows, in pixels; a smaller image is one window.
        overlap: how many pixels neighbours share at least; 0 to half a window.
        probabilities_of: gives those of the window (row, column, height, width), (C, h, w), which
            are overwritten.
    """
    rows, columns = (windows_along(side, window, overlap) for side in size)
    height, width = len(rows[0].weights), len(columns[0].weights)
    # What the windows above, (C, rows, image width), and to the left, (C, height, columns), share
    # with the next ones: sums to which these add.
    above: Tensor | None = None
    filled = 0  # rows of it
    for row in rows:
        left: Tensor | None = None
        for column in columns:
            part = probabilities_of(row.start, column.start, height, width).float()
            part.mul_((row.weights[:, None] * column.weights).to(part))
            if left is not None:
                part[:, :, : left.shape[2]] += left
            part, shared = part.split([width - column.shared, column.shared], dim=2)
            left = shared.clone()
            if above is None:
                above = part.new_empty(len(part), max(each.shared for each in rows), size[1])
            area = slice(column.start, column.start + part.shape[2])
            part[:, :filled] += above[:, :filled, area]
            final, shared = part.split([height - row.shared, row.shared], dim=1)
            above[:, : row.shared, area] = shared
            yield Block(row.start, column.start, final)
        filled = row.shared


def windows_along(length: int, window: int, overlap: int) -> list[Window]:
    """Windows at nearly even distances that cover ``length`` pixels.

    Neighbours share ``overlap`` pixels or more. All but the last start at a multiple of GRID, or
    where windows are small, of a smaller power of two: a network of strides sees them on the grid
    on which it sees the whole image.
    """
    size = min(window, length)
    step, grid = max(window - overlap, 1), GRID
    while grid > max(step // 4, 1):
        grid //= 2
    cells = -(-(length - size) // grid)  # from the first start to the last one
    gaps = -(-cells // (step // grid))
    starts = [number * cells // gaps * grid for number in range(gaps)] + [length - size]
    # The tent of half a pixel at the border up to 1 in the middle; never 0.
    centre = (size - 1) / 2
    tent = 1 - (torch.arange(size, dtype=torch.float64) - centre).abs() / (size / 2)
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + size] += tent
    shared = [*(first + size - second for first, second in zip(starts, starts[1:])), 0]
    weights = [(tent / total[start : start + size]).float() for start in starts]
    return list(map(Window, starts, weights, shared))
