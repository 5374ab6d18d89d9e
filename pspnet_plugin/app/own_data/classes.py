"""From the values in masks to classes, and masks in the form that MMSegmentation reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...utils.datasets import spread_colours
from ...utils.text import shortened
from ..errors import DataError, refuse
from ..images.reading import EXIF_ORIENTATION, upright
from .annotations.class_tables import IGNORED, Table
from .masks import (
    NO_NUMBER,
    Mask,
    Value,
    read_numbers,
    remark_on_losses,
    strips,
    traces_of_losses,
)
from .scan import ImageStatistics

DOZENS = 24  # more values need a table
TRACE = 0.00005  # the part of the pixels that is shown as 0.00 %
# How far from a value JPEG leaves others, and soft edges most of theirs.
NOISE, EDGE = 4, 16
BACKGROUND_NAMES = ('background', '_background_', '__background__')  # of labelme too
GREY = [96, 96, 96]
FAR = 64  # between two values that are no neighbours


class Classes(NamedTuple):
    """The classes of a dataset."""

    names: list[str]  # of the classes, in the order of their labels
    values: list[Value]  # what the masks hold for each
    palette: list[list[int]]  # a colour for each, RGB from 0 to 255
    frequencies: list[float]  # which part of the labelled pixels each has, 0 to 1
    ignored: dict[Value, float]  # values of pixels without a class, and their part of all pixels

    @property
    def are_labels(self) -> bool:
        """Whether the masks hold the labels 0, 1, 2 … already, and 255 where they have none."""
        labels = [(number,) for number in range(len(self.values))]
        return self.values == labels and self.ignored.keys() <= {(IGNORED,)}


def find_classes(images: Sequence[ImageStatistics], table: Table | None = None) -> Classes:
    """The classes that the masks hold, by their values or by a table.

    Without a table each value is a class, except that negative ones and 255 are ignored, the latter
    unless the masks hold nothing but 0 and 255. What is no number, or what masks declare as nodata,
    is ignored in any case, unless it is 0 or a class of the table.

    Raises:
        DataError: without a table, masks in colours or values that are hardly classes; with one, a
            value that it does not have; fewer than two classes.
    """
    counts: Counter = Counter()
    for image in images:
        counts.update(image.values)
    if table is None or not table.in_colours:
        refuse(other_palettes([image.mask for image in images]))
    nodata = {(NO_NUMBER,), *(image.mask.nodata for image in images if image.mask.nodata)}
    table = table or guess(images, counts, nodata)
    ignored = [*table.ignored, *(nodata - {*table.classes.values()})]
    known = {*table.classes.values(), *ignored}
    refuse([line for image in images for line in unknown_values(image, known)])
    refuse([line for image in images if (line := traces_of_losses(image.mask))])
    values = list(table.classes.values())
    if len(values) < 2 or sum(counts[value] > 0 for value in values) < 2:
        raise DataError(
            f'{images[0].pair.mask.parent}: the masks hold one class only, '
            f'{written(next(iter(counts)))}; two or more are needed'
        )
    labelled, pixels = sum(counts[value] for value in values), sum(counts.values())
    return Classes(
        list(table.classes),
        values,
        [list(value) for value in values] if table.in_colours else colours_of(list(table.classes)),
        [counts[value] / labelled for value in values],
        {value: counts[value] / pixels for value in ignored if counts[value]},
    )


def colours_of(classes: Sequence[str]) -> list[list[int]]:
    """A colour for each class; a background is grey, so that the others stand out from it."""
    colours = spread_colours(len(classes))
    for number, name in enumerate(classes):
        if name.lower() in BACKGROUND_NAMES:
            colours[number] = GREY
    return colours


def unknown_values(image: ImageStatistics, known: set[Value]) -> list[str]:
    """A line where a mask holds values that are not ``known``."""
    unknown = sorted(image.values.keys() - known)
    if not unknown:
        return []
    path, shown = image.pair.mask, shortened([written(value) for value in unknown])
    what = f'value {shown} is' if len(unknown) == 1 else f'values {shown} are'
    return [f'{path}: {what} none of the classes{remark_on_losses(path)}']


def guess(
    images: Sequence[ImageStatistics], counts: Mapping[Value, int], nodata: set[Value]
) -> Table:
    """The table of classes where only the masks are known."""
    coloured = [image for image in images if any(len(value) == 3 for value in image.values)]
    if coloured:
        colours = sorted(value for image in coloured for value in image.values)
        raise DataError(
            f'{coloured[0].pair.mask}: a mask in colours, such as {written(colours[0])}. Name a '
            'table with --classes: a line NAME RED GREEN BLUE for each class'
            f'{remark_on_losses(coloured[0].pair.mask)}'
        )
    refuse(other_objects(images))
    ignored = [value for value in counts if value < (0,) or value in nodata]
    values = sorted(counts.keys() - set(ignored))
    refuse_noise(images, [value[0] for value in values], counts)
    if values != [(0,), (IGNORED,)] and (IGNORED,) in values:
        values.remove((IGNORED,))
        ignored.append((IGNORED,))
    if values and are_numbered([value[0] for value in values]):  # 0, 1, 3: 2 is in no mask yet
        values = [(number,) for number in range(values[0][0], values[-1][0] + 1)]
    names = [f'class_{value[0]}' for value in values]
    if len(values) == 2 and (0,) in values:
        names = ['background', 'foreground']
    return Table(dict(zip(names, values)), ignored)


def other_palettes(masks: Iterable[Mask]) -> list[str]:
    """A line for each mask whose palette shows one of its values in a colour of its own."""
    first: dict[int, tuple[bytes, Path | str]] = {}
    problems = []
    for mask in masks:
        for (number,) in mask.values if mask.palette else ():
            colour = mask.palette[3 * number : 3 * number + 3]
            usual, there = first.setdefault(number, (colour, mask.path))
            if usual != colour:
                problems.append(
                    f'{mask.path}: value {number} is {tuple(colour)} in its palette, but '
                    f'{tuple(usual)} in {there}; name a table of the colours with --classes of '
                    'pspnet init, or, where they do not count, write the masks without a palette'
                )
                break
    return problems


def other_objects(images: Sequence[ImageStatistics]) -> list[str]:
    """A line where some masks are binary, of 0 and 255, and no other one has 255."""
    binary = [image.pair.mask for image in images if image.values.keys() == {(0,), (IGNORED,)}]
    others = [image for image in images if image.values.keys() - {(0,), (IGNORED,)}]
    if len(binary) < 2 or not others or any((IGNORED,) in image.values for image in others):
        return []
    return [
        f'{binary[0]}: holds 0 and {IGNORED}, as {len(binary)} masks do, but {others[0].pair.mask} '
        f'{shortened([written(value) for value in sorted(others[0].values)])}; if {IGNORED} is a '
        'class, write it as in the others, and if it is none, name a table with --classes'
    ]


def are_numbered(values: Sequence[int]) -> bool:
    """Whether sorted values are the numbers of classes, from 0 or 1, with few left out."""
    return values[0] <= 1 and values[-1] < 2 * len(values)


def refuse_noise(
    images: Sequence[ImageStatistics], values: list[int], counts: Mapping[Value, int]
) -> None:
    """Raise DataError where the sorted values of all masks are hardly one for each class."""
    pixels = sum(counts[value,] for value in values)
    shares = {value: counts[value,] / pixels for value in values}
    if are_classes(shares):
        return
    most = max(images, key=lambda image: len(image.values)).pair.mask
    raise DataError(
        f'{most}: with the other masks it holds {len(values)} values, which are hardly one for '
        f'each class: {likely_meaning(shares)} If they are classes, name them in a table with '
        '--classes: a line NAME VALUE for each'
    )


def are_classes(shares: Mapping[int, float]) -> bool:
    """Whether values, sorted, with their parts of the pixels, are few and lie apart."""
    values = list(shares)
    classes = [value for value in values if value != IGNORED]
    if not classes or len(classes) > DOZENS:
        return len(classes) <= DOZENS
    traces = [value for value, share in shares.items() if share < TRACE]
    low, high = values[0], values[-1]
    at_ends = [value for value in values if 0 < min(value - low, high - value) <= NOISE]
    is_noisy = (
        2 * len(traces) > len(values)
        or (len(at_ends) > 1 and high - low > FAR)
        or (len(values) > 5 and are_two_with_edges(shares))
    )
    return are_numbered(classes) or not is_noisy


def are_two_with_edges(shares: Mapping[int, float]) -> bool:
    """Whether the smallest and the largest value stand out, with a little of all between them."""
    low, high = min(shares), max(shares)
    at_low = [share for value, share in shares.items() if value <= low + EDGE]
    at_high = [share for value, share in shares.items() if value >= high - EDGE]
    between = list(shares.values())[len(at_low) : -len(at_high)] or [0]
    return high - low > FAR and min(np.mean(at_low), np.mean(at_high)) > 3 * np.mean(between)


def likely_meaning(shares: Mapping[int, float]) -> str:
    """What masks with such values seem to be, and what is to be done."""
    low, high = min(shares), max(shares)
    if are_two_with_edges(shares):
        return (
            f'they seem to be two, {low} and {high}, with soft edges or traces of JPEG. Write '
            f'{high} where a mask is above {(low + high) // 2} and {low} elsewhere, as PNG.'
        )
    if max(shares.values()) < 0.2:
        return 'it looks like a photo. Are the folders of images and masks swapped?'
    return 'they seem to number objects, or to be soft edges. Write one value for a class, as PNG.'


def written(value: Value) -> str:
    """``7``, or ``(255, 0, 0)``."""
    if value == (NO_NUMBER,):
        return 'no number'
    return str(value[0] if len(value) == 1 else value)


def write_labels(images: Sequence[ImageStatistics], classes: Classes, folder: Path) -> None:
    """Write each mask as ``folder/NAME.png``, with the labels 0, 1, 2 … and 255 for ignored."""
    in_colours = len(classes.values[0]) == 3
    for image in images:
        with open(image.mask.path, 'rb') as file:
            mask = read_numbers(file, image.mask.path, in_colours, image.mask.mark)
        labels = {mask.number(value): label for label, value in enumerate(classes.values)}
        numbers = sorted(map(mask.number, image.values))
        of_numbers = np.array([labels.get(number, IGNORED) for number in numbers], np.uint8)
        label_map = np.empty(mask.pixels.shape, np.uint8)
        for strip, target in zip(strips(mask.pixels), strips(label_map)):
            target[:] = of_numbers[np.searchsorted(numbers, strip)]
        save_labels(
            np.ascontiguousarray(upright(label_map, image.mask_orientation or 1)),
            folder / f'{image.pair.name}.png',
        )


def save_labels(label_map: np.ndarray, path: Path) -> None:
    """Write a label map, (H, W) uint8; EXIF says that it is upright, which others leave unsaid."""
    mark = Image.Exif()
    mark[EXIF_ORIENTATION] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(label_map).save(path, exif=mark)
