"""An image of any size in overlapping windows, blended, in memory that its height does not change.

Each window's class probabilities are weighted by a tent that falls to nearly zero at its borders,
and summed where windows overlap, so that no border shows. The weights are a product of one of the
rows and one of the columns. A block of the result is final, and leaves memory, as soon as no later
window reaches it; kept are one window, and the strip in which two rows of windows overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import PredictionError

GRID = 32  # pixels; the strides of all common networks divide it


class Block(NamedTuple):
    """A final part of the result.

    Attributes:
        row, column: its upper left pixel in the image.
        probabilities: (C, h, w) float32; the sum over the classes is 1.
    """

    row: int
    column: int
    probabilities: Tensor


class Line(NamedTuple):
    """The windows along one side of an image.

    Attributes:
        starts: the first pixel of each.
        size: how many pixels each has.
        weights: (windows, size), the tents, whose sum is 1 at every pixel of the image.
    """

    starts: list[int]
    size: int
    weights: Tensor

    def final(self, number: int) -> slice:
        """The pixels, counted in window ``number``, that no later window reaches."""
        last = number + 1 == len(self.starts)
        return slice(0, self.size if last else self.starts[number + 1] - self.starts[number])


def blend(
    size: tuple[int, int],
    window: int,
    overlap: int,
    probabilities_of: Callable[[int, int, int, int], Tensor],
) -> Iterator[Block]:
    """Predict an image window by window, and yield the parts of the result in order.

    Args:
        size: height and width of the image.
        window: the side of the windows, in pixels; a smaller image is one window.
        overlap: how many pixels neighbours share at least; at most half a window.
        probabilities_of: gives those of the window (row, column, height, width), (C, h, w), which
            are overwritten.

    Raises:
        PredictionError: window and overlap do not fit each other.
    """
    rows, columns = (line_of_windows(side, window, overlap) for side in size)
    shared_rows = [rows.size - rows.final(i).stop for i in range(len(rows.starts))]
    strip: Tensor | None = None  # (C, rows, width): the sums that the next row of windows goes on
    for i, row in enumerate(rows.starts):
        above, final_rows = shared_rows[i - 1], rows.final(i).stop
        beside: Tensor | None = None  # (C, height, columns): the same for the next window
        for j, column in enumerate(columns.starts):
            part = probabilities_of(row, column, rows.size, columns.size).float()
            part.mul_((rows.weights[i][:, None] * columns.weights[j]).to(part))
            if beside is not None:
                part[:, :, : beside.shape[2]] += beside
            final_columns = columns.final(j).stop
            beside = part[:, :, final_columns:].clone()
            done = part[:, :, :final_columns]
            area = slice(column, column + final_columns)
            if strip is None:
                strip = part.new_zeros(len(part), max(shared_rows), size[1])
            if i:
                done[:, :above] += strip[:, :above, area]
            strip[:, : shared_rows[i], area] = done[:, final_rows:]
            yield Block(row, column, done[:, :final_rows])


def line_of_windows(length: int, window: int, overlap: int) -> Line:
    """Windows at nearly even distances that cover ``length`` pixels.

    Neighbours share ``overlap`` pixels or more. All but the last start at a multiple of GRID, or
    where windows are small, of a smaller power of two: a network of strides sees them on the grid
    on which it sees the whole image.
    """
    check_windows(window, overlap)
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
    weights = torch.stack([tent / total[start : start + size] for start in starts])
    return Line(starts, size, weights.float())


def check_windows(window: int, overlap: int) -> None:
    """Raise PredictionError for windows that share more than half their pixels, or less than 0."""
    if window < 1 or not 0 <= overlap <= window // 2:
        raise PredictionError(
            f'Windows of {window} pixels cannot share {overlap}: at most half of them, and no less '
            'than 0.'
        )


def largest(probabilities: Tensor, threshold: float | None = None) -> np.ndarray:
    """The label of each pixel, (h, w) int64.

    Args:
        probabilities: (C, h, w).
        threshold: of the second of two classes, for a model with a single output channel.
    """
    if threshold is not None:
        return (probabilities[1] > threshold).long().cpu().numpy()
    return probabilities.argmax(0).cpu().numpy()
