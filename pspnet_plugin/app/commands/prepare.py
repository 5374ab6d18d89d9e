"""``pspnet prepare``: from the archives of a published dataset to images and label maps."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...errors import PspnetPluginError
from ...utils.text import printable
from ..errors import refuse
from ..published.datasets import PUBLISHED
from ..published.prepare import prepare


def add_prepare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('name', choices=PUBLISHED, help='dataset')
    add(
        'archives',
        nargs='+',
        type=Path,
        metavar='ARCHIVE',
        help='zip or tar files as they were published, or folders with what was in them',
    )
    add('--out', type=Path, metavar='DIR', help='folder to write to (default: data/NAME)')


def run_prepare(arguments: argparse.Namespace) -> int:
    """Prepare a dataset, and tell what differs from the published one."""
    dataset, out = PUBLISHED[arguments.name], arguments.out or Path('data', arguments.name)
    try:
        counts, problems, warnings = prepare(dataset, arguments.archives, out)
    except OSError as error:
        raise PspnetPluginError(
            f'{error.filename or out}: {error.strerror}; the same command goes on from here'
        ) from error
    in_splits = ', '.join(f'{counts[split]} {split}' for split in sorted(counts))
    print(f'{out}: images with labels: {in_splits}')
    for warning in warnings:
        print(f'warning: {printable(warning)}', file=sys.stderr)
    refuse(problems)
    return 0
