"""Folds for cross-validation: each image validates once, and groups stay together."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .masks import Value
from .scan import ImageStatistics


def fold_numbers(
    images: Sequence[ImageStatistics],
    groups: Sequence[list[int]],
    values: Sequence[Value],
    count: int,
) -> list[int]:
    """In which fold, from 1 on, each image validates.

    A group goes whole into the fold that has fewest images of its rarest class, and of those the
    one with fewest images, so every class is spread over the folds.

    Args:
        groups: of the numbers of images, see :func:`.split.groups_of_duplicates`.
        values: those of the classes in the masks.

    Raises:
        DataError: there are fewer groups than folds.
    """
    if not 2 <= count <= len(groups):
        raise DataError(
            f'--folds {count}: between 2 and {len(groups)} are possible, since near-duplicates '
            'stay together'
        )
    often = Counter({value: sum(value in i.values for i in images) for value in values})
    classes = [
        {value for number in group for value in values if value in images[number].values}
        for group in groups
    ]
    order = list(range(len(groups)))
    random.Random(0).shuffle(order)
    order.sort(key=lambda g: (min(map(often.__getitem__, classes[g]), default=0), -len(groups[g])))
    in_folds: list[Counter] = [Counter() for _ in range(count)]
    sizes = [0] * count
    found = [0] * len(images)
    for group in order:
        rarest = min(classes[group], key=lambda value: (often[value], str(value)), default=None)
        fold = min(range(count), key=lambda n: (in_folds[n][rarest], sizes[n]))
        in_folds[fold].update(dict.fromkeys(classes[group], len(groups[group])))
        sizes[fold] += len(groups[group])
        for number in groups[group]:
            found[number] = fold + 1
    return found


def fold_lists(
    folder: Path,
    images: Sequence[ImageStatistics],
    groups: Sequence[list[int]],
    values: Sequence[Value],
    count: int,
) -> dict[Path, list[ImageStatistics]]:
    """The images of ``NUMBER/train.txt`` and ``NUMBER/val.txt`` for each fold."""
    numbers = fold_numbers(images, groups, values, count)
    return {
        folder / str(fold) / name: [
            image for image, number in zip(images, numbers) if (number == fold) == validates
        ]
        for fold in range(1, count + 1)
        for name, validates in (('train.txt', False), ('val.txt', True))
    }
