"""``pspnet plot``: loss, mIoU and learning rate of training runs, and what was frozen when."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..runs.log import read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='work folders of runs'
    )
    parser.add_argument(
        '--out', required=True, type=Path, metavar='FILE.png', help='the image to write'
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw the runs, and tell the best and the last mIoU of each."""
    from ..runs.plot import draw_runs

    runs = [read_run(work_dir) for work_dir in arguments.work_dirs]
    draw_runs(runs, arguments.out)
    for found in runs:
        scores = found.values('mIoU')
        best = max(scores, key=lambda step: scores[step], default=None)
        validated = 'no validation'
        if best is not None:
            last = list(scores.values())[-1]
            validated = f'best mIoU {scores[best]:.1f} at iteration {best}, the last {last:.1f}'
        print(f'{found.name}: {found.lines[-1]["step"]} iterations, {validated}')
    print(f'written: {arguments.out}')
    return 0
