"""``pspnet prepare``: a published dataset, from its archives to images and label maps."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from rich.progress import track

from ...errors import PspnetPluginError
from ..errors import refuse
from ..published.datasets import PUBLISHED
from ..published.prepare import prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', choices=PUBLISHED, help='dataset')
    parser.add_argument(
        'archives',
        nargs='+',
        type=Path,
        metavar='ARCHIVE',
        help='zip or tar files as they were published, or folders with what was in them',
    )
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help='folder to write to (default: data/NAME)'
    )


def run(arguments: argparse.Namespace) -> int:
    """Prepare a dataset, and tell what differs from the published one."""
    dataset, out = PUBLISHED[arguments.name], arguments.out or Path('data', arguments.name)
    progress = functools.partial(track, description=f'preparing {out}', transient=True)
    try:
        made = prepare(dataset, arguments.archives, out, progress)
    except OSError as error:
        raise PspnetPluginError(
            f'{error.filename or out}: {error.strerror}; the same command goes on from here'
        ) from error
    counts = ', '.join(f'{made.images[split]} {split}' for split in sorted(made.images))
    print(f'{out}: images with labels: {counts}')
    for warning in made.warnings:
        print(f'warning: {warning}', file=sys.stderr)
    refuse(made.problems)
    return 0
