"""Which images validate, a fifth or one of several folds, with no near-duplicate on both sides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from .masks import Value
from .scan import ImageStatistics

VALIDATION_SHARE = 0.2
# Mean difference of two thumbnails, 0 to 1, below which two images show the same.
SAME = 0.02
ROUNDING = 1e-6
# Sixteen checkerboards of 1 and -1 on a thumbnail, coarse ones: (16, 256).
HADAMARD = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]])
BOARDS = np.kron(np.kron(HADAMARD, np.ones(4)), np.kron(HADAMARD, np.ones(4)))


def groups_of_duplicates(images: Sequence[ImageStatistics]) -> list[list[int]]:
    """The numbers of the images, those of near-duplicates together, in order of their first.

    Near-duplicates of near-duplicates are in one group too. Few pairs are compared pixel by pixel:
    the mean of a thumbnail times a board of 1 and -1 differs between two images by no more than
    their pixels do on average, so what differs by more in one of these means is no near-duplicate.
    """
    thumbnails = np.stack([image.thumbnail.ravel() for image in images])
    means = thumbnails.astype(np.float64) @ BOARDS.T / thumbnails.shape[1]
    order = np.argsort(means[:, 0])  # by brightness; everything below is in this order
    thumbnails, means = thumbnails[order], means[order]
    limit = SAME + ROUNDING
    first = np.searchsorted(means[:, 0], means[:, 0] - limit)
    last = np.searchsorted(means[:, 0], means[:, 0] + limit, 'right')
    is_left = np.ones(len(images), bool)  # in no group yet

    def near(number: int) -> np.ndarray:
        """The near-duplicates of one image that are in no group yet."""
        window = slice(first[number], last[number])
        close = np.abs(means[window, 1] - means[number, 1]) <= limit
        found = first[number] + np.flatnonzero(close & is_left[window])
        found = found[(np.abs(means[found] - means[number]) <= limit).all(1)]
        return found[np.abs(thumbnails[found] - thumbnails[number]).mean(1) < SAME]

    groups = []
    for number in range(len(images)):
        if is_left[number]:
            is_left[number] = False
            group = [number]
            for member in group:  # which grows meanwhile
                found = near(member)
                is_left[found] = False
                group.extend(found.tolist())
            groups.append(sorted(order[group].tolist()))
    return sorted(groups)


def split(
    images: Sequence[ImageStatistics], groups: Sequence[list[int]], values: Sequence[Value]
) -> tuple[list[ImageStatistics], list[ImageStatistics]]:
    """Training and validation images.

    Groups of near-duplicates stay together. A class that two groups have is on both sides; one that
    a single group has is in training.

    Args:
        groups: of the numbers of images, from :func:`groups_of_duplicates`.
        values: those of the classes in the masks.
    """
    groups = list(groups)
    random.Random(0).shuffle(groups)
    in_images = np.array([[image.values[value] > 0 for value in values] for image in images])
    in_groups = np.stack([in_images[group].any(0) for group in groups])
    wanted = max(1, round(VALIDATION_SHARE * len(images)))
    chosen = validation_groups(np.array([len(group) for group in groups]), in_groups, wanted)
    validating = {number for group in chosen for number in groups[group]}
    return (
        [image for number, image in enumerate(images) if number not in validating],
        [image for number, image in enumerate(images) if number in validating],
    )


def validation_groups(sizes: np.ndarray, classes: np.ndarray, wanted: int) -> set[int]:
    """The groups that validate: one with each class where another has it, then up to ``wanted``.

    Args:
        sizes: (groups,), numbers of images.
        classes: (groups, classes) bool, which classes each group has.
        wanted: how many images are to validate.
    """
    chosen: set[int] = set()
    in_training = classes.sum(0)

    def choose(group: int) -> None:
        chosen.add(group)
        in_training[:] -= classes[group]

    for number in np.argsort(in_training, kind='stable'):  # the rarest class first
        with_it = np.flatnonzero(classes[:, number])
        if chosen.isdisjoint(with_it.tolist()):
            can_leave = (~classes[with_it] | (in_training > 1)).all(1)
            if can_leave.any():
                fitting = with_it[can_leave]
                choose(int(fitting[np.argmin(sizes[fitting])]))
    taken = int(sizes[list(chosen)].sum())
    for group, size in enumerate(sizes.tolist()):
        can_leave = group not in chosen and (in_training[classes[group]] > 1).all()
        if taken + size <= wanted and can_leave:
            choose(group)
            taken += size
    return chosen


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
        groups: of the numbers of images, from :func:`groups_of_duplicates`.
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
