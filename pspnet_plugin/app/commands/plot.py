"""``pspnet plot``: loss, mIoU and learning rate of training runs, and what was frozen when."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from ..reports.run_log import LogError, Run, read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='work folders of runs'
    )
    parser.add_argument(
        '--out', required=True, type=Path, metavar='FILE.png', help='the image to write'
    )
    parser.add_argument(
        '--confusion',
        metavar='CHECKPOINT',
        help='draw instead which class this checkpoint of the run takes for which, on the '
        'validation images',
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw the runs and tell the best and the last mIoU of each; or draw a confusion matrix."""
    runs = [read_run(work_dir) for work_dir in arguments.work_dirs]
    if arguments.confusion is None:
        plot_curves(runs, arguments.out)
    else:
        plot_confusion(runs, arguments.confusion, arguments.out)
    print(f'written: {arguments.out}')
    return 0


def plot_curves(runs: Sequence[Run], out: Path) -> None:
    """Draw what was logged, and print the mIoU of each run."""
    from ..reports.curves import draw_runs

    draw_runs(runs, out)
    for found in runs:
        scores = found.values('mIoU')
        best = max(scores, key=lambda step: scores[step], default=None)
        validated = 'no validation'
        if best is not None:
            last = list(scores.values())[-1]
            validated = f'best mIoU {scores[best]:.1f} at iteration {best}, the last {last:.1f}'
        print(f'{found.name}: {found.lines[-1]["step"]} iterations, {validated}')


def plot_confusion(runs: Sequence[Run], checkpoint: str, out: Path) -> None:
    """Predict the validation images of one run, and draw which class is taken for which."""
    from ..reports.confusion import confusion_of, draw_confusion
    from ..training.datasets import check_datasets

    if len(runs) > 1:
        raise LogError(f'--confusion takes one work folder, not {len(runs)}')
    config = runs[0].read_config()
    if config is None:
        raise LogError(f'{runs[0].name}: no vis_data/config.py beside the log')
    check_datasets(config, ('val_dataloader',))
    found = confusion_of(
        config, checkpoint, lambda images: track(images, 'predicting', transient=True)
    )
    draw_confusion(found, out)
    print(f'{runs[0].name}: mIoU {100 * np.nanmean(found.ious):.2f}')
