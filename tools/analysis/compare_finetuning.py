#!/usr/bin/env python
"""Train recipes of configs/finetune on few and on many labelled images and compare them.

Each combination of recipe, number of labelled images and seed is one run of ``tools/train.py``,
whose log is in a folder of its own. Runs that have finished before are not done again. At the end:
a table of mIoU, of the iteration from which each recipe is as good as the last one is in the end,
of processor time (which other work on the machine hardly changes) and memory, and with ``--plot``
a figure of mIoU over iterations.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS
from rich import box
from rich.table import Table

from pspnet_plugin.app.reports.runs import read_run
from pspnet_plugin.utils.text import table_as_text

TOOLS = Path(__file__).resolve().parents[1]
RECIPES = TOOLS.parent / 'configs' / 'finetune'
DEFAULT = ['frozen_backbone', 'gradual_unfreezing', 'full', 'from_scratch']
Result = dict[str, Any]  # of one run, as in its result.json
Results = dict[tuple[str, int], list[Result]]  # of all seeds, by recipe and number of images


def spread(count: int, total: int) -> list[int]:
    """``count`` of ``total`` indices at even distances: of every longitude, 6 of them among 12."""
    return [index * total // count for index in range(count)]


def train(recipe: str, options: list[str], work_dir: Path, threads: int) -> Result:
    """One training run: mIoU in percent by iteration, seconds of processor time, peak MB.

    What the run prints goes to ``console.txt`` in ``work_dir``; a finished run is only read there.

    Raises:
        RuntimeError: the run failed, and the message has the last lines that it printed; or the
            folder has a run with other options.
    """
    result = work_dir / 'result.json'
    if not result.is_file():
        work_dir.mkdir(parents=True, exist_ok=True)
        for left in work_dir.glob('*.pth'):  # of a run that was stopped: it begins anew
            left.unlink()
        config = RECIPES / f'{recipe}.py'
        command = [sys.executable, TOOLS / 'train.py', config, '--work-dir', work_dir]
        command = [*map(str, command), '--cfg-options', *options]
        printed = work_dir / 'console.txt'
        with printed.open('w') as console:
            environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
            process = subprocess.Popen(command, stdout=console, stderr=console, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            last = ''.join(printed.read_text(errors='replace').splitlines(keepends=True)[-5:])
            raise RuntimeError(f'the run in {work_dir} failed; all of it is in {printed}:\n{last}')
        measured = {
            'mIoU': read_run(work_dir).values('mIoU'),
            'time': usage.ru_utime + usage.ru_stime,
            'memory': usage.ru_maxrss / 1024,
        }
        result.write_text(json.dumps({**measured, 'options': options}))
    finished = json.loads(result.read_text())
    if finished.pop('options') != options:
        raise RuntimeError(f'{work_dir} has a run with other options: name another --work-dir')
    return finished


def train_all(args: argparse.Namespace) -> Results:
    """The results of all seeds for each recipe and number of labelled images."""
    dataset = Config.fromfile(RECIPES / f'{args.recipes[0]}.py').train_dataloader.dataset
    with DefaultScope.overwrite_default_scope('mmseg'):
        total = len(DATASETS.build(dataset))
    counts = args.labelled or [total]
    if wrong := [count for count in counts if not 0 < count <= total]:
        sys.exit(f'error: --labelled {wrong[0]}: the training split has {total} labelled images')
    runs = list(itertools.product(args.recipes, counts, args.seeds))
    threads = max(1, (os.cpu_count() or 1) // args.jobs)

    def run(recipe: str, count: int, seed: int) -> Result:
        options = [f'randomness.seed={seed}', *args.cfg_options]
        if count < total:
            indices = ','.join(map(str, spread(count, total)))
            options.append(f'train_dataloader.dataset.indices=[{indices}]')
        folder = args.work_dir / f'{recipe}_{count}_images_seed_{seed}'
        return train(recipe, options, folder, threads)

    print(f'{len(runs)} runs, {args.jobs} at a time; their logs are in {args.work_dir}', flush=True)
    results: Results = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            for (recipe, count, seed), result in zip(runs, pool.map(run, *zip(*runs))):
                results.setdefault((recipe, count), []).append(result)
                iou = f'mIoU {ious([result])[0, -1]:.1f} %'
                print(f'{recipe}, {count} labelled images, seed {seed}: {iou}', flush=True)
        except RuntimeError as error:  # the runs that have not begun do not
            sys.exit(f'error: {error}')
    return results


def ious(runs: list[Result]) -> np.ndarray:
    """mIoU in percent, (runs, validations)."""
    return np.array([list(run['mIoU'].values()) for run in runs])


def mean_and_range(values: Sequence[float], digits: int) -> str:
    mean, low, high = (f'{of(values):.{digits}f}' for of in (np.mean, np.min, np.max))
    return mean if len(values) == 1 else f'{mean} ({low} to {high})'


def as_good_as(runs: list[Result], goal: float) -> str:
    """The iteration of the first validation in which the mean of the runs is at least ``goal``."""
    means = zip(runs[0]['mIoU'], ious(runs).mean(0))
    return next((iteration for iteration, mean in means if mean >= goal), 'never')


def tabulate(results: Results, recipes: list[str], counts: list[int]) -> Table:
    """A row for each recipe: mIoU (%) for each number of labelled images, and what it takes."""
    reached = f'as good as {recipes[-1]} at iteration'
    measured = reached, 'processor time (s)', 'peak memory (MB)'
    table = Table('recipe', *(f'{n} images' for n in counts), *measured, box=box.MARKDOWN)
    goals = [ious(results[recipes[-1], count])[:, -1].mean() for count in counts]
    for recipe in recipes:
        each = [results[recipe, count] for count in counts]
        cells = [mean_and_range(ious(runs)[:, -1], 1) for runs in each]
        cells.append(', '.join(map(as_good_as, each, goals)))
        every = list(itertools.chain(*each))
        cells += [mean_and_range([run[key] for run in every], 0) for key in ('time', 'memory')]
        table.add_row(recipe, *cells)
    return table


def plot(results: Results, recipes: list[str], counts: list[int], target: Path) -> None:
    """Draw mIoU over iterations, the mean and range of the seeds, for each number of images."""
    figure = Figure(figsize=(3.6 * len(counts), 3.6), layout='constrained')
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)
    for count, axes in zip(counts, panels[0]):
        for recipe in recipes:
            runs = results[recipe, count]
            iterations, curves = list(map(int, runs[0]['mIoU'])), ious(runs)
            (line,) = axes.plot(iterations, curves.mean(0), 'o-', label=recipe)
            low, high = curves.min(0), curves.max(0)
            axes.fill_between(iterations, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.set(title=f'{count} labelled images', xlabel='iteration')
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel('mIoU (%)')
    figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3)
    figure.savefig(target, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('recipes', nargs='*', default=DEFAULT, help='names in configs/finetune')
    parser.add_argument('--labelled', type=int, nargs='+', help='images to train on (default: all)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=1, help='runs at the same time')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/finetune'))
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw mIoU over iterations')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as in train.py')
    args = parser.parse_args()
    results = train_all(args)
    counts = sorted({count for _, count in results})
    print('\nmIoU (%) by number of labelled images:\n')
    print(table_as_text(tabulate(results, args.recipes, counts), width=200))
    if args.plot:
        plot(results, args.recipes, counts, args.plot)
        print(f'figure: {args.plot}')


if __name__ == '__main__':
    main()
