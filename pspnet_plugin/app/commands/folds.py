"""``pspnet folds``: cross-validation, with the IoU of each class over all images."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import PspnetPluginError
from ...utils.config_files import read_config
from .options import add_config_arguments

SHARES = 0.25, 0.5  # of the labels, for the learning curve


def add_folds(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add = parser.add_argument
    add(
        '--lists',
        type=Path,
        metavar='DIR',
        help='folder with NUMBER/train.txt and NUMBER/val.txt for each fold, as pspnet init '
        '--folds writes them (default: folds beside the config)',
    )
    add(
        '--work-dir',
        type=Path,
        help='folder for the runs (default: work_dirs/CONFIG_folds); the same command again goes '
        'on where it stopped',
    )
    add('--jobs', type=int, default=1, help='folds at a time, on a GPU each (default: 1)')
    add(
        '--learning-curve',
        action='store_true',
        help='also train on a quarter and on a half of the labels: would more of them help? Three '
        'times as many runs',
    )


def run_folds(arguments: argparse.Namespace) -> int:
    """Train each fold, and tell how good the network is on images that it has not seen."""
    from ...utils.datasets import class_info
    from ...utils.distributed import world_size
    from ..reports.folds import learning_curve, table_of_classes
    from ..training.folds import folds_of
    from ..training.folds import run_folds as run

    if world_size() > 1:
        raise PspnetPluginError(
            'pspnet folds starts the runs itself: leave out torchrun, and say --jobs N for N folds '
            'at a time.'
        )
    if arguments.jobs < 1:
        raise PspnetPluginError(f'--jobs {arguments.jobs} is no number of runs from 1 on.')
    cfg = read_config(arguments.config, arguments.cfg_options)
    name = Path(arguments.config).stem
    lists = arguments.lists or Path(arguments.config).parent / 'folds'
    work_dir = arguments.work_dir or Path('work_dirs', f'{name}_folds')
    shares = [*SHARES, 1.0] if arguments.learning_curve else [1.0]
    planned = {share: folds_of(cfg, lists, work_dir, share) for share in shares}
    found = {share: run(planned[share], arguments.jobs, tell_at_once) for share in reversed(shares)}
    classes, _ = class_info(cfg, {}, found[1.0][0].shape[-1])
    print(table_of_classes(found[1.0], classes))
    if arguments.learning_curve:
        print(learning_curve(found))
    return 0


def tell_at_once(line: str) -> None:
    """Print a whole line, which those of other threads do not cut."""
    print(f'{line}\n', end='', flush=True)
