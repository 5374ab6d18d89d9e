"""From a folder of images and one of masks to a config, a split, and label maps where needed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ...utils.text import did_you_mean, one_line
from ..errors import DataError, refuse
from .classes import Classes, find_classes, write_labels
from .config_text import BACKBONES, DataFiles, config_text
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
    refuse([problem for pair in pairs for problem in name_problems(pair)])
    found = scan(pairs)
    classes = find_classes(found, table)
    groups = groups_of_duplicates(found)
    training, validation = split(found, groups, classes.values)
    if not validation:
        raise DataError(
            f'{images}: too few different images to keep some for validation; two or more that '
            'are no near-duplicates are needed'
        )
    plain = classes.are_labels and all(image.plain_mask for image in found)
    mask_suffix = shared_mask_suffix(pairs, masks) if plain else None
    labels = out / 'labels' if mask_suffix is None else masks
    files = DataFiles(
        folders=(str(images), str(labels)),
        suffixes=(pairs[0].image.suffix, mask_suffix or '.png'),
        lists=(str(out / 'train.txt'), str(out / 'val.txt')),
    )
    refuse_variables([*classes.names, *files.folders, *files.suffixes, *files.lists])
    out.mkdir(parents=True, exist_ok=True)
    if mask_suffix is None:
        write_labels(found, classes, labels)
    for path, listed in zip(files.lists, (training, validation)):
        names = ''.join(f'{image.pair.name}\n' for image in listed)
        Path(path).write_text(names, encoding='utf-8')
    text = config_text(classes, training, validation, files, backbone, iterations)
    config.write_text(text, encoding='utf-8')
    require_as_meant(config, tuple(classes.names), files)
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


def name_problems(pair: Pair) -> list[str]:
    """What keeps a name out of a list of images, which is read as UTF-8 and without blanks."""
    name = pair.name
    listed = name.encode('utf-8', 'replace').decode('utf-8').strip()
    if listed == name and not {'\r', '\n'} & set(name):
        return []
    return [
        f'{str(pair.image)!r}: a list of images cannot hold a name with a blank at its beginning '
        'or end, with a line break, or that is no UTF-8; rename the file'
    ]


def refuse_variables(texts: Sequence[str]) -> None:
    """Raise DataError for what mmengine would replace in the text of a config, quotes or not."""
    refuse(
        [
            f'{text!r}: mmengine takes what stands in {{{{ }}}} in a config for a variable; '
            'name it without {{'
            for text in texts
            if '{{' in text
        ]
    )


def require_as_meant(config: Path, names: tuple[str, ...], files: DataFiles) -> None:
    """Load what was written; where it says anything else, remove it and raise DataError."""
    try:
        read = Config.fromfile(config)
        training, validation = (read[f'{split}_dataloader'].dataset for split in ('train', 'val'))
        suffixes = training.img_suffix, training.seg_map_suffix
        lists = training.ann_file, validation.ann_file
        found: Any = read.classes, DataFiles((read.images, read.masks), suffixes, lists)
    except Exception as error:  # whatever a text raises that is no config
        found = one_line(error)
    if found != (names, files):
        config.unlink()
        raise DataError(f'{config}: cannot be written so that it is read as it is meant: {found}')


def shared_mask_suffix(pairs: Sequence[Pair], masks: Path) -> str | None:
    """What follows an image's name in the name of its mask; None where that is not always so."""
    paths = [(pair.name, pair.mask.relative_to(masks).as_posix()) for pair in pairs]
    suffixes = {path[len(name) :] if path.startswith(name) else None for name, path in paths}
    return suffixes.pop() if len(suffixes) == 1 else None
