"""``pspnet init``: from a folder of images and one of masks to a config that trains."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from rich.progress import track
from rich.table import Table

from ...utils.text import table_as_text
from ..own_data.classes import written
from ..own_data.config_text import BACKBONES
from ..own_data.project import Project, write_project


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
    """Write the config, and tell what was found."""

    def progress(results: Iterable, total: int) -> Iterable:
        return track(results, 'looking at the images', total=total, transient=True)

    project = write_project(
        arguments.images,
        arguments.masks,
        arguments.out,
        arguments.classes,
        arguments.backbone,
        arguments.iterations,
        progress,
    )
    config = project.config
    print(summary(project))
    print(f'written: {config}\nnext:    pspnet check {config}\n         pspnet train {config}')
    return 0


def summary(project: Project) -> str:
    """What was found, as lines."""
    images, classes = project.images, project.classes
    sizes = sorted({image.size for image in images})
    size = ' to '.join(f'{width} x {height}' for height, width in sorted({sizes[0], sizes[-1]}))
    table = Table(title='classes')
    for heading in ('label', 'name', 'in masks', 'pixels'):
        table.add_column(heading, justify='left' if heading == 'name' else 'right')
    rows = zip(classes.names, classes.values, classes.frequencies)
    for number, (name, value, frequency) in enumerate(rows):
        table.add_row(str(number), name, written(value), f'{100 * frequency:.2f} %')
    return (
        f'{len(images)} images of {size} pixels, {images[0].channels} channels of '
        f'{images[0].depth}; {project.training} to train, {len(images) - project.training} to '
        f'validate; {project.duplicates} near-duplicates, which stay on one side\n'
        f'{table_as_text(table)}'
    )
