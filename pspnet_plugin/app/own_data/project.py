"""From a folder of images and one of masks to a config, a split, and label maps where needed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...utils.files import write_text
from ...utils.text import did_you_mean, one_line
from ..errors import DataError, refuse
from .annotations.source import Choices, find_source
from .classes import Classes, find_classes, write_labels
from .config_text import BACKBONES, DataFiles, config_text
from .division import Division, SplitChoices, divide
from .pairs import Pair
from .scan import scan
from .split import fold_lists


def write_project(
    images: Path,
    masks: Path,
    out: Path,
    choices: Choices,
    split_choices: SplitChoices,
    backbone: str,
    iterations: int | None,
    folds: int | None,
) -> tuple[Path, Classes, Division]:
    """Look at the data, split it, and write the config; nothing where something is wrong.

    Args:
        masks: folder of masks, or annotations: a file or a folder.
        out: folder for the config, which has its name, and for what belongs to it.
        choices: see :func:`find_source`.
        split_choices: see :func:`divide`.
        backbone, iterations: see :func:`config_text`.
        folds: how many of them to write lists of, see :func:`fold_lists`.

    Returns:
        The file of the config, the classes in the masks, and the images.

    Raises:
        DataError: the folders cannot be used as they are, or a file that would be written is there
            already.
    """
    config = out / f'{out.resolve().name}.py'
    lists = str(out.absolute() / 'train.txt'), str(out.absolute() / 'val.txt')
    require_inputs(images, masks, backbone)
    require_new([config, *map(Path, lists), out / 'folds'], (images, masks))
    with tempfile.TemporaryDirectory() as drafts:
        source = find_source(images, masks, Path(drafts), choices)
        refuse_names(source.pairs)
        in_colours = source.table is not None and source.table.in_colours
        found = scan(source.pairs, in_colours, source.drawn)
        classes = find_classes(found, source.table)
        divided = divide(found, classes, source.images, source.sides, split_choices)
        listed = dict(zip(map(Path, lists), divided[:2]))
        if folds is not None:
            in_folds = divided.images, divided.groups, classes.values
            listed |= fold_lists(out / 'folds', *in_folds, folds)
        plain = all(image.mask.plain and image.mask_orientation == 1 for image in found)
        stay = plain and classes.are_labels and not source.drawn
        mask_suffix = shared_mask_suffix(source.pairs, source.masks) if stay else None
        labels = out / 'labels' if mask_suffix is None else source.masks
        of_images = {pair.image.suffix for pair in source.pairs}  # of several each is in the names
        suffixes = of_images.pop() if len(of_images) == 1 else '', mask_suffix or '.png'
        # Absolute, so that the config holds wherever it is run from.
        folders = str(source.images.absolute()), str(labels.absolute())
        files = DataFiles(folders, suffixes, lists)
        refuse_variables([*classes.names, *files.folders, *files.suffixes, *files.lists])
        if mask_suffix is None:
            require_new([labels])
            if not source.drawn:
                write_labels(found, classes, labels)
            for mask in source.drawn:
                target = labels / mask.relative_to(source.masks)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(mask, target)
    for path, some in listed.items():
        write_text(path, ''.join(f'{image.pair.name}\n' for image in some))
    write_text(config, config_text(classes, *divided[:2], files, backbone, iterations))
    require_as_meant(config, tuple(classes.names), files)
    return config, classes, divided


def require_new(paths: Sequence[Path], inputs: Sequence[Path] = ()) -> None:
    """Raise DataError for what is there already, and within a folder of images or of masks."""
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        raise DataError(
            f'{", ".join(there)}: is there already; remove it, or name another folder with --out'
        )
    for path in paths:
        for folder in inputs:
            if folder.resolve() in path.resolve().parents:
                raise DataError(
                    f'{path}: would lie in {folder}, which is read; name another folder with --out'
                )


def require_inputs(images: Path, masks: Path, backbone: str) -> None:
    """Raise DataError for a missing folder or package."""
    for path, is_there in ((images, images.is_dir()), (masks, masks.exists())):
        if not is_there:
            beside = [other.name for other in path.parent.glob('*')]
            raise DataError(f'{path}: no such folder.{did_you_mean(path.name, beside)}')
    needed = BACKBONES[backbone].packages
    missing = [name for module, name in needed.items() if find_spec(module) is None]
    if missing:
        raise DataError(f'--backbone {backbone} needs: pip install {" ".join(missing)}')


def refuse_names(pairs: Sequence[Pair]) -> None:
    """Raise DataError for what cannot be in a list of images, which is UTF-8 without blanks."""
    refuse(
        [
            f'{str(pair.image)!r}: a list of images cannot hold a name with a blank at its '
            'beginning or end, with a line break, or that is no UTF-8; rename the file'
            for pair in pairs
            if pair.name.encode('utf-8', 'replace').decode('utf-8').strip() != pair.name
            or {'\r', '\n'} & set(pair.name)
        ]
    )


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
