"""``pspnet init``: from images with masks or annotations to a config."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.table import Column, Table

from ...utils.text import next_steps, table_as_text
from ..own_data.annotations.source import FORMATS, Choices
from ..own_data.classes import written
from ..own_data.config_text import BACKBONES
from ..own_data.division import SplitChoices
from ..own_data.project import write_project
from ..own_data.scan import lacking_line


def add_init(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('images', type=Path, help='folder of images, or of a whole dataset')
    add(
        'masks',
        type=Path,
        nargs='?',
        help='folder of masks, named like the images, or file or folder of annotations '
        '(default: what the first folder holds)',
    )
    add(
        '--out',
        type=Path,
        default=Path('pspnet_project'),
        metavar='DIR',
        help='folder to write to (default: %(default)s)',
    )
    add(
        '--classes',
        type=Path,
        metavar='TABLE',
        help='text file with a line NAME VALUE or NAME RED GREEN BLUE for each class',
    )
    add(
        '--backbone',
        choices=BACKBONES,
        default='resnet18',
        help='network whose ImageNet weights training starts from (default: %(default)s)',
    )
    add('--iterations', type=number, help='of training (default: by the images)')
    split = parser.add_argument_group('validation images (default: as folders or files say)')
    add = split.add_argument
    add(
        '--val',
        type=Path,
        metavar='PATH',
        help='folder among the images, or text file with a name in each line',
    )
    add(
        '--split',
        choices=('similar', 'random'),
        help='split anew: a fifth, near-duplicates on one side, or whatever they show',
    )
    add(
        '--group-by',
        metavar='PATTERN',
        help='split anew: images on one side in whose names this regular expression, or its first '
        "group in brackets, finds the same: '^(patient\\d+)_'",
    )
    add('--folds', type=int, metavar='N', help='also write lists for pspnet folds, into DIR/folds')
    add = parser.add_argument_group('annotations').add_argument
    add('--annotations', choices=('masks', *FORMATS), help='what to read, where there are several')
    add(
        '--unannotated',
        choices=('background', 'skip'),
        help='images without a shape, or that no annotation names: all background, or left out '
        '(default: the former are background, the latter left out)',
    )
    add(
        '--on-top',
        choices=('later', 'smaller'),
        default='later',
        help='which of two shapes covers the other (default: %(default)s)',
    )
    add(
        '--skip-broken',
        action='store_true',
        help='leave out broken annotations instead of stopping',
    )


def number(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is less than 1')
    return int(text)


def run_init(arguments: argparse.Namespace) -> int:
    """Write the config, and tell what was found."""
    choices = Choices(
        arguments.annotations,
        arguments.unannotated,
        arguments.on_top == 'smaller',
        arguments.skip_broken,
        arguments.classes,
    )
    config, classes, divided = write_project(
        arguments.images,
        arguments.masks or arguments.images,
        arguments.out,
        choices,
        SplitChoices(arguments.val, arguments.split, arguments.group_by),
        arguments.backbone,
        arguments.iterations,
        arguments.folds,
    )
    images = divided.images
    sizes = sorted({image.size for image in images})
    size = ' to '.join(f'{width} x {height}' for height, width in sorted({sizes[0], sizes[-1]}))
    right = [Column(heading, justify='right') for heading in ('label', 'in masks', 'pixels')]
    table = Table(right[0], 'name', *right[1:], title='classes')
    rows = zip(classes.names, classes.values, classes.frequencies)
    for number, (name, value, frequency) in enumerate(rows):
        table.add_row(str(number), name, written(value), f'{100 * frequency:.2f} %')
    for value, share in classes.ignored.items():
        table.add_row('', 'ignored', written(value), f'{100 * share:.2f} % of all')
    print(
        f'{len(images)} images of {size} pixels, {images[0].channels} channels of '
        f'{images[0].depth}; {len(divided.training)} to train, {len(divided.validation)} to '
        f'validate; {divided.summary}\n{table_as_text(table)}\n'
        f'{lacking_line({str(image.pair.image): image.lacking for image in images})}'
        f'{start_of_training(arguments.backbone)}\nwritten: {config}'
    )
    folds = [('folds', config)] if arguments.folds else []
    print(next_steps(('check', config), ('train', config), *folds))
    return 0


def start_of_training(backbone: str) -> str:
    """Where the weights of a backbone come from, and what else to do without a network."""
    from ...pretrained.source.download import cached_path  # which imports torch
    from ...pretrained.source.schemes import Address, resolve

    weights = resolve(BACKBONES[backbone].pretrained)
    if not isinstance(weights, Address) or (path := cached_path(weights)).is_file():
        return 'weights: on this machine, training needs no network'
    return (
        f'weights: training downloads {weights.url}; without a network put that file at {path}, '
        'set pretrained in the config to another file or to None (random weights), or take '
        '--backbone efficientnet_lite0, whose weights come in a package'
    )
