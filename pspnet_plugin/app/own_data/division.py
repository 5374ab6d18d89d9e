"""Training and validation images: as somebody has said, or by what the images show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from .classes import Classes
from .scan import ImageStatistics
from .split import VALIDATION_SHARE, groups_of_duplicates, split
from .stated_split import groups_by_pattern, joined, stated_sides

NOISES = 5  # how many times the usual difference is noise, in a scene that hardly changes
DIFFERENT = 0.05


class SplitChoices(NamedTuple):
    """What a user says about the split."""

    val: Path | None = None  # a folder or a list, see stated_sides
    way: str | None = None  # 'similar' or 'random'; None: as stated, otherwise 'similar'
    group_by: str | None = None  # a pattern, see groups_by_pattern


class Division(NamedTuple):
    """The images of the two sides."""

    training: list[ImageStatistics]
    validation: list[ImageStatistics]
    images: list[ImageStatistics]  # of both
    groups: list[list[int]]  # numbers of images that folds keep together
    summary: str  # how they were told apart


def divide(
    images: Sequence[ImageStatistics],
    classes: Classes,
    folder: Path,
    of_files: Mapping[str, str],
    choices: SplitChoices,
    tell: Callable[[str], None],
) -> Division:
    """Divide the images.

    Args:
        folder: of the images.
        of_files: what annotation files say, see :func:`stated_sides`.
        tell: is handed a line for each thing that a person should know.

    Raises:
        DataError: nothing can be kept for validation, or what is stated does not fit.
    """
    if choices.val is not None and (choices.way or choices.group_by):
        raise DataError('--val names the images that validate; leave out --split and --group-by')
    sides: dict[str, str] = {}
    if not (choices.way or choices.group_by):
        sides = stated_sides([image.pair for image in images], of_files, choices.val, folder)
    if sides:
        return as_stated(images, classes, sides, tell)
    return by_groups(images, classes, folder, choices, tell)


def as_stated(
    images: Sequence[ImageStatistics],
    classes: Classes,
    sides: Mapping[str, str],
    tell: Callable[[str], None],
) -> Division:
    """The sides that folders, files or a list say; what is for testing is left out."""
    of_sides: dict[str, list[ImageStatistics]] = {'train': [], 'val': [], 'test': []}
    for image in images:
        of_sides[sides[image.pair.name]].append(image)
    for side, purpose in (('train', 'training'), ('val', 'validation')):
        if not of_sides[side]:
            raise DataError(f'{images[0].pair.image} and all others: none is left for {purpose}')
        there = {value for image in of_sides[side] for value in image.values}
        missing = [n for n, value in zip(classes.names, classes.values) if value not in there]
        if missing:
            tell(f'in no {purpose} image: {", ".join(missing)}')
    tested = len(of_sides['test'])
    without = f', {tested} test images left out' if tested else ''
    kept = [image for image in images if sides[image.pair.name] != 'test']
    summary = f'the stated split is kept{without}'
    return Division(of_sides['train'], of_sides['val'], kept, groups_of_duplicates(kept), summary)


def by_groups(
    images: Sequence[ImageStatistics],
    classes: Classes,
    folder: Path,
    choices: SplitChoices,
    tell: Callable[[str], None],
) -> Division:
    """A fifth for validation, with each group on one side, see :func:`split`."""
    groups, summary = groups_of(images, choices, tell)
    training, validation = split(images, groups, classes.values)
    if not validation:
        reason = 'all are near-duplicates or of one group; name others, or --split random'
        if len(groups) > 1:
            reason = 'each group has a class that no other one has; do the masks number objects?'
        raise DataError(f'{folder}: none can be kept for validation, {reason}')
    return Division(training, validation, list(images), groups, summary)


def groups_of(
    images: Sequence[ImageStatistics], choices: SplitChoices, tell: Callable[[str], None]
) -> tuple[list[list[int]], str]:
    """The numbers of the images that stay together, and what is said of them."""
    if choices.way == 'random':
        groups = [[number] for number in range(len(images))]
        summary = 'split at random: near-duplicates lie on both sides, and validation flatters'
    else:
        groups = groups_of_duplicates(images)
        if max(map(len, groups)) > (1 - VALIDATION_SHARE) * len(images):
            groups = groups_of_duplicates(without_scene(images))
            tell(
                'the scene hardly changes: near-duplicates are those that differ from the median '
                'image in the same way (--split random takes none together)'
            )
        duplicates = len(images) - len(groups)
        summary = (
            f'near-duplicates, which stay on one side: {duplicates}'
            if duplicates
            else 'no near-duplicates'
        )
    if choices.group_by is not None:
        of_pattern = groups_by_pattern(images, choices.group_by)
        groups = joined(of_pattern, groups)
        summary += f'; {len(of_pattern)} groups by {choices.group_by}'
    return groups, summary


def without_scene(images: Sequence[ImageStatistics]) -> list[ImageStatistics]:
    """The images with thumbnails of what is no noise in their difference to the median of all.

    They are scaled so that images with nothing in common differ by twice ``DIFFERENT``.
    """
    thumbnails = np.stack([image.thumbnail for image in images])
    differences = thumbnails - np.median(thumbnails, axis=0)
    sizes = np.abs(differences)
    sizes = np.maximum(sizes - NOISES * np.median(sizes), 0)
    typical = float(np.median(sizes.mean((1, 2)))) or float(sizes.max()) or 1.0
    scaled = (np.sign(differences) * sizes * (DIFFERENT / typical)).astype(np.float32)
    return [image._replace(thumbnail=thumbnail) for image, thumbnail in zip(images, scaled)]
