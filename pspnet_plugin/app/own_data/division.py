"""Training and validation images: as somebody has said, or by what the images show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError, refuse
from .classes import Classes
from .pairs import Pair, path_stem
from .scan import ImageStatistics
from .split import VALIDATION_SHARE, groups_of_duplicates, split

NOISES = 5  # how many times the usual difference is noise, in a scene that hardly changes
DIFFERENT = 0.05
SIDE = r'(train|val|test)(?:ing|id|idation)?\d*'
IN_NAME = re.compile(rf'(?:^|[^a-z]){SIDE}(?:[^a-z]|$)')
OF_FOLDER = re.compile(rf'(?:(?:images?|img)[_-])?{SIDE}(?:[_-](?:images?|img))?')


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
) -> Division:
    """Divide the images, and print what a person should know.

    Args:
        folder: of the images.
        of_files: what annotation files say, see :func:`stated_sides`.

    Raises:
        DataError: nothing can be kept for validation, or what is stated does not fit.
    """
    if choices.val is not None and (choices.way or choices.group_by):
        raise DataError('--val names the images that validate; leave out --split and --group-by')
    sides: dict[str, str] = {}
    if not (choices.way or choices.group_by):
        sides = stated_sides([image.pair for image in images], of_files, choices.val, folder)
    if sides:
        return as_stated(images, classes, sides)
    return by_groups(images, classes, folder, choices)


def as_stated(
    images: Sequence[ImageStatistics], classes: Classes, sides: Mapping[str, str]
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
            print(f'in no {purpose} image: {", ".join(missing)}')
    tested = len(of_sides['test'])
    without = f', {tested} test images left out' if tested else ''
    kept = [image for image in images if sides[image.pair.name] != 'test']
    summary = f'the stated split is kept{without}'
    return Division(of_sides['train'], of_sides['val'], kept, groups_of_duplicates(kept), summary)


def by_groups(
    images: Sequence[ImageStatistics], classes: Classes, folder: Path, choices: SplitChoices
) -> Division:
    """A fifth for validation, with each group on one side, see :func:`split`."""
    groups, summary = groups_of(images, choices)
    training, validation = split(images, groups, classes.values)
    if not validation:
        reason = 'all are near-duplicates or of one group; name others, or --split random'
        if len(groups) > 1:
            reason = 'each group has a class that no other one has; do the masks number objects?'
        raise DataError(f'{folder}: none can be kept for validation, {reason}')
    return Division(training, validation, list(images), groups, summary)


def groups_of(
    images: Sequence[ImageStatistics], choices: SplitChoices
) -> tuple[list[list[int]], str]:
    """The numbers of the images that stay together, and what is said of them."""
    if choices.way == 'random':
        groups = [[number] for number in range(len(images))]
        summary = 'split at random: near-duplicates lie on both sides, and validation flatters'
    else:
        groups = groups_of_duplicates(images)
        if max(map(len, groups)) > (1 - VALIDATION_SHARE) * len(images):
            groups = groups_of_duplicates(without_scene(images))
            print(
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


def side_of_name(name: str) -> str | None:
    """``train``, ``val`` or ``test``, where a name says one: ``instances_val2017``."""
    found = IN_NAME.search(name.lower())
    return found[1] if found else None


def side_of_folders(name: str) -> str | None:
    """The same for the folders above a file; the innermost counts: ``images/train/1``."""
    for folder in reversed(name.lower().split('/')[:-1]):
        if found := OF_FOLDER.fullmatch(folder):
            return found[1]
    return None


def sides_of_lists(images: Path, masks: Path, pairs: Sequence[Pair]) -> dict[str, str]:
    """``train``, ``val`` or ``test`` by the names of pairs, as VOC's lists say.

    They are ``ImageSets/Segmentation/train.txt`` and others beside the folder of masks, a name in
    each line, which may have folders, a suffix and more words.

    Raises:
        DataError: one of them names no image at all.
    """
    names = {path_stem(pair.image, images): pair.name for pair in pairs}
    sides: dict[str, str] = {}
    for file in sorted((masks.parent / 'ImageSets' / 'Segmentation').glob('*.txt')):
        if side := side_of_name(file.stem):
            text = file.read_text(encoding='utf-8-sig', errors='replace')
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            listed = {line if line in names else Path(line.split()[0]).stem for line in lines}
            if lines and listed.isdisjoint(names):
                refuse([f'{file}: {lines[0]} is the name of no image, nor is any other line'])
            sides.update((names[name], side) for name in listed & names.keys())
    return sides


def stated_sides(
    pairs: Sequence[Pair], of_files: Mapping[str, str], val: Path | None, images: Path
) -> dict[str, str]:
    """``train``, ``val`` or ``test`` by the name of each pair; empty where nobody has said so.

    Args:
        of_files: what annotation files say, by the names of pairs.
        val: a folder below ``images``, or a list of the names that validate; it counts before all.

    Raises:
        DataError: ``val`` names no image, or some images are on no side.
    """
    if val is not None:
        chosen = names_of_val(pairs, val, images)
        return {pair.name: 'val' if pair.name in chosen else 'train' for pair in pairs}
    sides = {pair.name: of_files.get(pair.name) or side_of_folders(pair.name) for pair in pairs}
    stated = set(sides.values()) - {None}
    if stated == {'train', 'test'}:
        raise DataError(
            f'{images}: some images are to train and some to test, but none to validate; name '
            'those with --val, or split all of them anew with --split similar'
        )
    if not {'train', 'val'} <= stated:
        return {}
    refuse(
        [
            f'{pair.image}: is neither in train nor in val, as others are. Name those that '
            'validate with --val, or split anew with --split similar'
            for pair in pairs
            if sides[pair.name] is None
        ]
    )
    return {name: side for name, side in sides.items() if side}


def names_of_val(pairs: Sequence[Pair], val: Path, images: Path) -> set[str]:
    """The names of the pairs in a folder, or in a list with a line for each image."""
    folder = val if val.is_dir() else images / val
    if folder.is_dir():
        inside = folder.resolve()
        chosen = {pair.name for pair in pairs if inside in pair.image.resolve().parents}
        if not chosen:
            raise DataError(f'{val}: none of the images is below this folder')
        return chosen
    try:
        lines = [line.strip() for line in val.read_text(encoding='utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'--val {val}: no folder, and no list of names ({error})') from error
    known: dict[str, set[str]] = {}
    for pair in pairs:
        image = pair.image
        for name in (pair.name, image.name, image.stem, f'{pair.name}{image.suffix}'):
            known.setdefault(name, set()).add(pair.name)
    listed = [line for line in lines if line]
    refuse(
        [f'{val}: {line} is the name of no image' for line in listed if line not in known]
        + [f'{val}: {n} is the name of several images' for n in listed if len(known.get(n, ())) > 1]
    )
    return {next(iter(known[line])) for line in listed}


def groups_by_pattern(images: Sequence[ImageStatistics], pattern: str) -> list[list[int]]:
    """The numbers of the images by what a regular expression finds in their names.

    That is its first group in brackets, or all that it matches.

    Raises:
        DataError: it is no regular expression, or matches not all of the names.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f'--group-by {pattern}: no regular expression ({error})') from error
    found = [compiled.search(image.pair.name) for image in images]
    refuse(
        [
            f'{image.pair.image}: --group-by {pattern} does not match its name {image.pair.name}'
            for image, match in zip(images, found)
            if match is None
        ]
    )
    groups: dict[str, list[int]] = {}
    for number, match in enumerate(found):
        if match is not None:
            groups.setdefault(match[1 if compiled.groups else 0] or '', []).append(number)
    return list(groups.values())


def joined(*groupings: Sequence[Sequence[int]]) -> list[list[int]]:
    """Groups that share a number in one group, in order of their first."""
    group_of: dict[int, list[int]] = {}
    for group in (group for groups in groupings for group in groups):
        merged = sorted({n for number in group for n in group_of.get(number, [number])})
        group_of.update(dict.fromkeys(merged, merged))
    return sorted({id(group): group for group in group_of.values()}.values())
