"""Shapes of an image -> its label map, and what is odd about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .shapes import AnnotatedImage, Runs, Shape

CROSSINGS = 4_000_000  # of edges and rows that are computed at once
OUTSIDE = 1.0  # pixels beyond the edge of an image that tools write for its edge


class Oddities(NamedTuple):
    """The labels of the shapes in one image that a person should look at."""

    outside: list[str]  # reach out of the image
    thin: list[str]  # are thinner than a pixel somewhere
    hidden: list[str]  # lie below others wholly
    overlaps: Counter  # pixels by the two labels, the one below first


def draw(
    image: AnnotatedImage, values: Mapping[str, int], smaller_on_top: bool = False
) -> tuple[np.ndarray, Oddities]:
    """Draw the shapes over one another, the last on top; what has no shape is 0.

    Args:
        values: what stands in the label map for each label, 0 to 255.
        smaller_on_top: a smaller shape lies on a larger one, whatever the order.

    Returns:
        The label map, (H, W) uint8, and what is odd about the shapes.
    """
    shapes = sorted(image.shapes, key=lambda shape: shape.layer)
    if smaller_on_top:
        shapes = sorted(shapes, key=area_of, reverse=True)
    outside, thin = [], []
    covered: Counter = Counter()
    number_of = np.zeros(image.size, np.int32)  # of the shape on top, from 1
    is_empty = []
    for number, shape in enumerate(shapes, 1):
        window, mask, is_thin = mask_of(shape, image.size)
        below = number_of[window]
        hit = below[mask]
        numbers, pixels = np.unique(hit[hit > 0], return_counts=True)
        for other, count in zip(numbers.tolist(), pixels.tolist()):
            if shapes[other - 1].label != shape.label:
                covered[shapes[other - 1].label, shape.label] += count
        below[mask] = number
        is_empty.append(not mask.any())
        thin += [shape.label] * is_thin
        outside += [shape.label] * reaches_out(shape, image.size)
    visible = np.bincount(number_of.ravel(), minlength=len(shapes) + 1)[1:]
    hidden = [s.label for s, n, empty in zip(shapes, visible, is_empty) if not n and not empty]
    of_shapes = np.array([0, *(values[shape.label] for shape in shapes)], np.uint8)
    return of_shapes[number_of], Oddities(outside, thin, hidden, covered)


def mask_of(shape: Shape, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray, bool]:
    """The part of the image around a shape, the shape's mask there, and whether it is thin."""
    if shape.runs is not None:
        return mask_of_runs(shape.runs, size)
    first, window = around(np.concatenate([*shape.rings]), size)
    rings = [ring - first for ring in shape.rings]
    rows, columns = (part.stop - part.start for part in window)
    mask = fill_rings(rings, (rows, columns))
    is_thin = False
    for ring in rings:
        if width_of(ring) < 1:
            is_thin = True
            corner, part = around(ring, mask.shape)
            outline = np.zeros(mask[part].shape, np.uint8)
            if outline.size:
                cv2.polylines(outline, [np.floor(ring - corner).astype(np.int32)], True, 1)
            mask[part] |= outline.astype(bool)
    return window, mask, is_thin


def around(points: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The first corner, (x, y), of the part of an image around points, and that part."""
    limits = np.array([size[1], size[0]])
    first = np.clip(np.floor(points.min(0)), 0, limits).astype(int)
    last = np.clip(np.floor(points.max(0)) + 1, 0, limits).astype(int)
    return first, (slice(first[1], last[1]), slice(first[0], last[0]))


def fill_rings(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The union of rings, less those that lie inside others; one that comes twice counts once."""
    mask, covered = np.zeros(size, bool), np.zeros(size, bool)
    drawn = set()
    for ring in sorted(rings, key=ring_area, reverse=True):
        first, window = around(ring, size)
        within, known = mask[window], covered[window]  # views
        inside = fill(ring - first, within.shape)
        pixels = *first.tolist(), within.shape, inside.tobytes()
        if (inside & ~known).any():
            within |= inside
        elif pixels not in drawn:
            within ^= inside
        drawn.add(pixels)
        known |= inside
    return mask


def fill(ring: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The pixels whose centres are inside a ring, by the even-odd rule: (H, W) bool.

    Polygons that share an edge share no pixel and leave none between them, whereas OpenCV and
    Pillow draw the border too, which makes each half a pixel larger. In each row the pixels between
    the first and the second crossing with an edge are inside, between the third and the fourth …
    """
    rows, columns = size
    (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, 0).T
    first = np.ceil(np.minimum(y, next_y) - 0.5).clip(0, rows).astype(int)
    last = np.ceil(np.maximum(y, next_y) - 0.5).clip(0, rows).astype(int)
    edges = np.flatnonzero(last > first)
    toggles = np.zeros(rows * (columns + 1), np.uint8)
    ends = np.cumsum(last[edges] - first[edges])
    parts = np.searchsorted(ends, np.arange(CROSSINGS, ends[-1] if len(ends) else 0, CROSSINGS))
    for part in np.split(edges, parts):
        counts = last[part] - first[part]
        edge = np.repeat(part, counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - first[part], counts)
        slope = (next_x - x)[edge] / (next_y - y)[edge]
        crossing = x[edge] + (row + 0.5 - y[edge]) * slope
        column = np.ceil(crossing - 0.5).clip(0, columns).astype(int)
        np.bitwise_xor.at(toggles, row * (columns + 1) + column, 1)
    return np.bitwise_xor.accumulate(toggles.reshape(rows, columns + 1), 1)[:, :-1].astype(bool)


def mask_of_runs(runs: Runs, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray, bool]:
    """The same for runs."""
    is_inside = np.arange(len(runs.lengths)) % 2 == 1
    order = runs.size[::-1] if runs.by_column else runs.size
    mask = np.repeat(is_inside, runs.lengths).reshape(order)
    mask = mask.T if runs.by_column else mask
    (top, left), (first_row, first_column) = runs.corner, np.maximum(runs.corner, 0).tolist()
    mask = mask[first_row - top :, first_column - left :]
    mask = mask[: max(size[0] - first_row, 0), : max(size[1] - first_column, 0)]
    rows, columns = mask.shape
    window = slice(first_row, first_row + rows), slice(first_column, first_column + columns)
    return window, mask, False


def reaches_out(shape: Shape, size: tuple[int, int]) -> bool:
    """Whether a part of it is outside of the image."""
    if shape.runs is not None:
        (top, left), (rows, columns) = shape.runs.corner, shape.runs.size
        return min(top, left) < 0 or top + rows > size[0] or left + columns > size[1]
    points = np.concatenate([*shape.rings])
    return bool((points < -OUTSIDE).any() or (points > np.array(size[::-1]) + OUTSIDE).any())


def ring_area(ring: np.ndarray) -> float:
    """The area inside an outline that does not cross itself."""
    x, y = (ring - ring.mean(0)).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def area_of(shape: Shape) -> float:
    """The area of a shape, holes included."""
    if shape.runs is not None:
        return float(shape.runs.lengths[1::2].sum())
    return max(map(ring_area, shape.rings))


def width_of(ring: np.ndarray) -> float:
    """The shorter side of a rectangle of the same area and outline, also of one that is bent."""
    half = np.linalg.norm(np.roll(ring, -1, 0) - ring, axis=1).sum() / 2
    return (half - np.sqrt(max(half**2 - 4 * ring_area(ring), 0))) / 2
