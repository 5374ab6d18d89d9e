"""Which images train and which validate where somebody has said so: folders, files, lists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError, refuse
from .pairs import Pair, path_stem
from .scan import ImageStatistics

SIDE = r'(train|val|test)(?:ing|id|idation)?\d*'
IN_NAME = re.compile(rf'(?:^|[^a-z]){SIDE}(?:[^a-z]|$)')
OF_FOLDER = re.compile(rf'(?:(?:images?|img)[_-])?{SIDE}(?:[_-](?:images?|img))?')


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
        for name in (
            pair.name,
            pair.image.name,
            pair.image.stem,
            f'{pair.name}{pair.image.suffix}',
        ):
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
