"""``pspnet check``: look at the data of a config before it trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, PngImagePlugin
from rich.table import Column, Table

from ...utils.config_files import read_config
from ...utils.files import require_own, write_whole
from ...utils.text import next_steps, table_as_text
from ..errors import DataError, refuse
from ..own_data.scan import lacking_line
from .options import add_config_arguments

MARK = 'Software', 'pspnet check'  # in the pictures of ``pspnet check``


def add_check(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument(
        '--out',
        type=Path,
        metavar='GRID.png',
        help='also write a picture of some images over their labels',
    )


def run_check(arguments: argparse.Namespace) -> int:
    """Load all images and labels, and tell what is there and what is wrong."""
    from ..own_data.check import check_config
    from ..training.datasets import check_datasets

    if arguments.out is not None:
        require_picture(arguments.out)
    cfg = read_config(arguments.config, arguments.cfg_options)
    check_datasets(cfg)
    found = check_config(cfg)
    right = [Column(heading, justify='right') for heading in ('label', 'pixels')]
    table = Table(right[0], 'name', right[1], title='classes in the training images')
    for number, (name, count) in enumerate(zip(found.classes, found.counts)):
        table.add_row(str(number), name, f'{100 * count / max(found.counts.sum(), 1):.2f} %')
    if found.ignored > 0:
        table.add_row('', 'ignored', f'{100 * found.ignored:.2f} % of all')
    print(', '.join(f'{loader}: {count} images' for loader, count in found.images.items()))
    print(table_as_text(table))
    print(lacking_line(found.lacking), end='')
    if arguments.out is not None:
        mark = PngImagePlugin.PngInfo()
        mark.add_text(*MARK)
        with write_whole(arguments.out, 'wb') as file:
            Image.fromarray(found.grid).save(file, 'PNG', pnginfo=mark)
        print(f'written: {arguments.out}')
    refuse(found.problems)
    print(next_steps(('train', arguments.config)))
    return 0


def require_picture(path: Path) -> None:
    """Raise DataError for a name that is not that of a PNG file, or of one made elsewhere."""
    if path.suffix.lower() != '.png':
        raise DataError(f'--out {path}: is a picture; name a file that ends in .png')
    require_own(path, MARK[1])
