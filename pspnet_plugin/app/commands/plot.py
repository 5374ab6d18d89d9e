"""``pspnet plot``: loss, mIoU and learning rate of training runs, and what was frozen when."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..reports.runs import Run


def add_plot(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='work folders of runs')
    add('--out', required=True, type=Path, metavar='FILE.png', help='the image to write')
    add(
        '--confusion',
        metavar='CHECKPOINT',
        help='draw instead which class this checkpoint of the run takes for which, on the '
        'validation images',
    )


def run_plot(arguments: argparse.Namespace) -> int:
    """Draw the runs and tell the best and the last mIoU of each; or draw a confusion matrix."""
    import numpy as np

    from ..reports.figures import save
    from ..reports.runs import LogError, read_runs, runs_figure

    runs = read_runs(arguments.work_dirs)
    if arguments.confusion is None:
        save(runs_figure(runs), arguments.out)
        for found in runs:
            logged = found.values('mIoU')
            scores = {step: score for step, score in logged.items() if np.isfinite(score)}
            validated = 'no validation with an mIoU'
            if scores:
                best, last = max(scores, key=scores.__getitem__), list(logged.values())[-1]
                validated = f'best mIoU {scores[best]:.1f} at iteration {best}, the last {last:.1f}'
            print(f'{found.name}: {found.lines[-1]["step"]} iterations, {validated}')
    else:
        if len(runs) > 1:
            raise LogError(f'--confusion takes one work folder, not {len(runs)}')
        plot_confusion(runs[0], arguments.confusion, arguments.out)
    print(f'written: {arguments.out}')
    return 0


def plot_confusion(run: Run, checkpoint: str, out: Path) -> None:
    """Predict the validation images of a run, and draw which class is taken for which."""
    import numpy as np

    from ..reports.confusion import confusion_figure, confusion_of
    from ..reports.figures import save
    from ..reports.metrics import areas_of, ious_of
    from ..reports.runs import LogError
    from ..training.datasets import check_datasets

    config = run.read_config()
    if config is None:
        raise LogError(f'{run.name}: no vis_data/config.py beside the log')
    check_datasets(config, ('val_dataloader',))
    counts, classes = confusion_of(config, checkpoint)
    save(confusion_figure(counts, classes), out)
    print(f'{run.name}: mIoU {100 * np.nanmean(ious_of(areas_of(counts))):.2f}')
