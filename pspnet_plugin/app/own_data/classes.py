"""From the values in masks to classes, and masks in the form that MMSegmentation reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...utils.datasets import spread_colours
from ..errors import DataError, refuse
from .scan import ImageStatistics, Value, read_mask

IGNORED = 255


class Classes(NamedTuple):
    """The classes of a dataset."""

    names: list[str]  # of the classes, in the order of their labels
    values: list[Value]  # what the masks hold for each
    palette: list[list[int]]  # a colour for each, RGB from 0 to 255
    frequencies: list[float]  # which part of the labelled pixels each has, 0 to 1

    @property
    def are_labels(self) -> bool:
        """Whether the masks hold the labels 0, 1, 2 … already."""
        return self.values == [(number,) for number in range(len(self.values))]


def find_classes(images: Sequence[ImageStatistics], table: Path | None = None) -> Classes:
    """The classes that the masks hold, by their values or by a table, see :func:`read_table`.

    Without a table each value is a class, except that 255 is ignored, unless the masks hold nothing
    but 0 and 255.

    Raises:
        DataError: masks in colours without a table, a value that the table does not have, or fewer
            than two classes.
    """
    counts: Counter = Counter()
    for image in images:
        counts.update(image.values)
    stated = read_table(table) if table is not None else guess(images, counts)
    known = {*stated.values(), (IGNORED,)}
    refuse(
        [
            f'{image.pair.mask}: value {written(value)} is none of the classes'
            for image in images
            for value in sorted(image.values.keys() - known)
        ]
    )
    values = list(stated.values())
    if len(values) < 2 or sum(counts[value] > 0 for value in values) < 2:
        raise DataError(
            f'{images[0].pair.mask.parent}: the masks hold one class only, '
            f'{written(next(iter(counts)))}; two or more are needed'
        )
    total = sum(counts[value] for value in values)
    colours = [list(value) for value in values]
    palette = colours if len(colours[0]) == 3 else spread_colours(len(values))
    return Classes(list(stated), values, palette, [counts[value] / total for value in values])


def guess(images: Sequence[ImageStatistics], counts: Mapping[Value, int]) -> dict[str, Value]:
    """Names and values of classes where only the masks are known."""
    coloured = [image for image in images if any(len(value) == 3 for value in image.values)]
    if coloured:
        colours = sorted(value for image in coloured for value in image.values)
        raise DataError(
            f'{coloured[0].pair.mask}: a mask in colours, such as {written(colours[0])}. Name a '
            'table with --classes: a line NAME RED GREEN BLUE for each class'
        )
    values = sorted(counts)
    if values != [(0,), (IGNORED,)]:
        values = [value for value in values if value != (IGNORED,)]
    if values and values[-1][0] < 2 * len(values):  # 0, 1, 3: class 2 is in no mask yet
        values = [(number,) for number in range(values[-1][0] + 1)]
    return {f'class_{value[0]}': value for value in values}


def read_table(path: Path) -> dict[str, Value]:
    """Names and values of classes: lines ``NAME VALUE`` or ``NAME RED GREEN BLUE``.

    Commas count as spaces; empty lines and those that begin with ``#`` are left out.

    Raises:
        DataError: the file cannot be read, or one of its lines.
    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: cannot be read ({error})') from error
    found: dict[str, Value] = {}
    for number, line in enumerate(lines, 1):
        parts = line.replace(',', ' ').split()
        if not parts or parts[0].startswith('#'):
            continue
        name, *numbers = parts
        if len(numbers) not in (1, 3) or not all(part.isdecimal() for part in numbers):
            raise DataError(
                f'{path}: line {number} is not NAME VALUE or NAME RED GREEN BLUE: {line}'
            )
        value = tuple(map(int, numbers))
        if name in found or value in found.values():
            raise DataError(f'{path}: line {number} repeats a name or a value: {line}')
        found[name] = value
    if len({len(value) for value in found.values()}) > 1:
        raise DataError(f'{path}: either all lines have one value, or all have three')
    return found


def written(value: Value) -> str:
    """``7``, or ``(255, 0, 0)``."""
    return str(value[0] if len(value) == 1 else value)


def write_labels(images: Sequence[ImageStatistics], classes: Classes, folder: Path) -> None:
    """Write each mask as ``folder/NAME.png``, with the labels 0, 1, 2 … and 255 for ignored."""
    labels = {value: number for number, value in enumerate(classes.values)}
    for image in images:
        mask, _ = read_mask(image.pair.mask)
        label_map = np.full(mask.shape[:2], IGNORED, np.uint8)
        for value in image.values:
            if value in labels:
                same = mask == (value[0] if mask.ndim == 2 else np.array(value))
                label_map[same if mask.ndim == 2 else same.all(2)] = labels[value]
        target = folder / f'{image.pair.name}.png'
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label_map).save(target)
