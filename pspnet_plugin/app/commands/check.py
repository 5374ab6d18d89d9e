"""``pspnet check``: the data of a config, before it trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image
from rich.progress import track
from rich.table import Table

from ...utils.config_files import read_config
from ...utils.text import table_as_text
from ..errors import refuse
from ..own_data.check import check_config
from ..training.datasets import check_datasets
from .config_file import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        '--out', type=Path, help='also write a grid of images over their labels (.png)'
    )


def run(arguments: argparse.Namespace) -> int:
    """Load all images and labels, and tell what is there and what is wrong."""
    cfg = read_config(arguments.config, arguments.cfg_options)
    check_datasets(cfg, ('train_dataloader', 'val_dataloader', 'test_dataloader'))
    found = check_config(cfg, lambda items: track(items, 'looking at the images', transient=True))
    table = Table(title='classes in the training images')
    table.add_column('label', justify='right')
    table.add_column('name')
    table.add_column('pixels', justify='right')
    for number, (name, count) in enumerate(zip(found.classes, found.counts)):
        table.add_row(str(number), name, f'{100 * count / max(found.counts.sum(), 1):.2f} %')
    print(', '.join(f'{loader}: {count} images' for loader, count in found.images.items()))
    print(table_as_text(table))
    if arguments.out is not None:
        Image.fromarray(found.grid).save(arguments.out)
        print(f'written: {arguments.out}')
    refuse(found.problems)
    return 0
