"""``pspnet init``: from a folder of images and one of masks to a config that trains."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.progress import track
from rich.table import Table

from ...utils.text import did_you_mean, table_as_text
from ..errors import DataError
from ..own_data.classes import Classes, find_classes, write_labels, written
from ..own_data.config_text import BACKBONES, config_text, write_lists
from ..own_data.pairs import Pair, pair_files
from ..own_data.scan import ImageStatistics, scan
from ..own_data.split import groups_of_duplicates, split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('images', type=Path, help='folder of images')
    parser.add_argument('masks', type=Path, help='folder of masks, named like the images')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('pspnet_project'),
        metavar='DIR',
        help='folder to write to (default: %(default)s)',
    )
    parser.add_argument(
        '--classes',
        type=Path,
        metavar='TABLE',
        help='text file with a line NAME VALUE or NAME RED GREEN BLUE for each class',
    )
    parser.add_argument(
        '--backbone',
        choices=BACKBONES,
        default='resnet18',
        help='network whose ImageNet weights training starts from (default: %(default)s)',
    )
    parser.add_argument('--iterations', type=int, help='of training (default: by the images)')


def run(arguments: argparse.Namespace) -> int:
    """Look at the data, split it, and write the config."""
    for folder in (arguments.images, arguments.masks):
        if not folder.is_dir():
            beside = [path.name for path in folder.parent.glob('*') if path.is_dir()]
            raise DataError(f'{folder}: no such folder.{did_you_mean(folder.name, beside)}')
    require_packages(arguments.backbone)
    out = arguments.out
    config = out / f'{out.resolve().name}.py'
    if config.exists():
        raise DataError(f'{config}: is there already; name another folder with --out')
    pairs = pair_files(arguments.images, arguments.masks)
    images = scan(
        pairs, lambda found: track(found, 'looking at the images', total=len(pairs), transient=True)
    )
    classes = find_classes(images, arguments.classes)
    groups = groups_of_duplicates(images)
    training, validation = split(images, groups, classes.values)
    if not validation:
        raise DataError(
            f'{arguments.images}: too few different images to keep some for validation; two or '
            'more that are no near-duplicates are needed'
        )
    out.mkdir(parents=True, exist_ok=True)
    masks, mask_suffix = arguments.masks, shared_mask_suffix(pairs, arguments.masks)
    plain = classes.are_labels and all(image.plain_mask for image in images)
    if mask_suffix is None or not plain:
        masks, mask_suffix = out / 'labels', '.png'
        write_labels(images, classes, masks)
    text = config_text(
        classes,
        training,
        validation,
        (os.fspath(arguments.images), os.fspath(masks)),
        (pairs[0].image.suffix, mask_suffix),
        write_lists(out, training, validation),
        arguments.backbone,
        arguments.iterations,
    )
    config.write_text(text, encoding='utf-8')
    print(summary(images, classes, len(training), len(groups)))
    print(f'written: {config}\nnext:    pspnet check {config}\n         pspnet train {config}')
    return 0


def require_packages(backbone: str) -> None:
    """Raise DataError where what a backbone needs is not installed."""
    needed = BACKBONES[backbone].packages
    missing = [name for module, name in needed.items() if find_spec(module) is None]
    if missing:
        raise DataError(f'--backbone {backbone} needs: pip install {" ".join(missing)}')


def shared_mask_suffix(pairs: Sequence[Pair], masks: Path) -> str | None:
    """What follows an image's name in the name of its mask; None where that is not always so."""
    paths = [(pair.name, pair.mask.relative_to(masks).as_posix()) for pair in pairs]
    suffixes = {path[len(name) :] if path.startswith(name) else None for name, path in paths}
    return suffixes.pop() if len(suffixes) == 1 else None


def summary(images: Sequence[ImageStatistics], classes: Classes, training: int, groups: int) -> str:
    """What was found, as lines.

    Args:
        training: how many images train.
        groups: how many images there are without their near-duplicates.
    """
    sizes = sorted({image.size for image in images})
    (least_height, least_width), (height, width) = sizes[0], sizes[-1]
    size = f'{width} x {height}'
    if len(sizes) > 1:
        size = f'{least_width} x {least_height} to {size}'
    table = Table(title='classes')
    for heading in ('label', 'name', 'in masks', 'pixels'):
        table.add_column(heading, justify='left' if heading == 'name' else 'right')
    rows = zip(classes.names, classes.values, classes.frequencies)
    for number, (name, value, frequency) in enumerate(rows):
        table.add_row(str(number), name, written(value), f'{100 * frequency:.2f} %')
    return (
        f'{len(images)} images of {size} pixels, {images[0].channels} channels of '
        f'{images[0].depth}; {training} to train, {len(images) - training} to validate; '
        f'{len(images) - groups} near-duplicates, which stay on one side\n{table_as_text(table)}'
    )
