"""From a folder of images and one of masks to a config, a split, and label maps where needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ...utils.text import did_you_mean
from ..errors import DataError
from .classes import Classes, find_classes, write_labels
from .config_text import BACKBONES, config_text
from .scan import ImageStatistics, Pair, pair_files, scan
from .split import groups_of_duplicates, split


class Project(NamedTuple):
    """What :func:`write_project` found and wrote."""

    config: Path  # the file
    images: list[ImageStatistics]  # all of them
    classes: Classes  # those in the masks
    training: int  # how many images train
    duplicates: int  # how many images are near-duplicates of others


def write_project(
    images: Path,
    masks: Path,
    out: Path,
    table: Path | None = None,
    backbone: str = 'resnet18',
    iterations: int | None = None,
) -> Project:
    """Look at the data, split it, and write the config; nothing where something is wrong.

    Args:
        out: folder for the config, which has its name, and for what belongs to it.
        table, backbone, iterations: see :func:`find_classes` and :func:`config_text`.

    Raises:
        DataError: the folders cannot be used as they are, or the config is there already.
    """
    config = out / f'{out.resolve().name}.py'
    require_inputs(images, masks, config, backbone)
    pairs = pair_files(images, masks)
    found = scan(pairs)
    classes = find_classes(found, table)
    groups = groups_of_duplicates(found)
    training, validation = split(found, groups, classes.values)
    if not validation:
        raise DataError(
            f'{images}: too few different images to keep some for validation; two or more that '
            'are no near-duplicates are needed'
        )
    out.mkdir(parents=True, exist_ok=True)
    mask_suffix = shared_mask_suffix(pairs, masks)
    plain = classes.are_labels and all(image.plain_mask for image in found)
    if mask_suffix is None or not plain:
        masks, mask_suffix = out / 'labels', '.png'
        write_labels(found, classes, masks)
    lists = str(out / 'train.txt'), str(out / 'val.txt')
    for path, listed in zip(lists, (training, validation)):
        names = ''.join(f'{image.pair.name}\n' for image in listed)
        Path(path).write_text(names, encoding='utf-8')
    folders, suffixes = (str(images), str(masks)), (pairs[0].image.suffix, mask_suffix)
    text = config_text(
        classes, training, validation, folders, suffixes, lists, backbone, iterations
    )
    config.write_text(text, encoding='utf-8')
    return Project(config, found, classes, len(training), len(found) - len(groups))


def require_inputs(images: Path, masks: Path, config: Path, backbone: str) -> None:
    """Raise DataError for a missing folder or package, or a config that is there already."""
    for folder in (images, masks):
        if not folder.is_dir():
            beside = [path.name for path in folder.parent.glob('*') if path.is_dir()]
            raise DataError(f'{folder}: no such folder.{did_you_mean(folder.name, beside)}')
    needed = BACKBONES[backbone].packages
    missing = [name for module, name in needed.items() if find_spec(module) is None]
    if missing:
        raise DataError(f'--backbone {backbone} needs: pip install {" ".join(missing)}')
    if config.exists():
        raise DataError(f'{config}: is there already; name another folder with --out')


def shared_mask_suffix(pairs: Sequence[Pair], masks: Path) -> str | None:
    """What follows an image's name in the name of its mask; None where that is not always so."""
    paths = [(pair.name, pair.mask.relative_to(masks).as_posix()) for pair in pairs]
    suffixes = {path[len(name) :] if path.startswith(name) else None for name, path in paths}
    return suffixes.pop() if len(suffixes) == 1 else None
