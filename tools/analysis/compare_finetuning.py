#!/usr/bin/env python
"""Train recipes of configs/finetune with several seeds and compare their mIoU, time and memory."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

from rich import box
from rich.table import Table
from run_log import read_log

from pspnet_plugin.text import table_as_text

TOOLS = Path(__file__).resolve().parents[1]
RECIPES = TOOLS.parent / 'configs' / 'finetune'
DEFAULT = ['frozen_backbone', 'gradual_unfreezing', 'full', 'from_scratch']


def run(recipe: str, seed: int, work_dir: Path, options: list[str]) -> dict[str, float]:
    """One training run: mIoU in percent, seconds an iteration, peak memory of the process in MB.

    The result of a run that has finished before is read from ``work_dir``.
    """
    result = work_dir / 'result.json'
    if not result.is_file():
        tool, config = TOOLS / 'train.py', RECIPES / f'{recipe}.py'
        command = [sys.executable, tool, config, '--work-dir', work_dir, '--cfg-options']
        command = [*map(str, command), f'randomness.seed={seed}', *options]
        print(f'\n$ {shlex.join(command)}', flush=True)
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f'{recipe} with seed {seed} failed: its log is under {work_dir}.')
        measured = {**summary(read_log(work_dir)), 'memory': usage.ru_maxrss / 1024}
        result.write_text(json.dumps(measured))
    return json.loads(result.read_text())


def summary(lines: list[dict]) -> dict[str, float]:
    """The last mIoU, and the median seconds of an iteration, of a run's log."""
    times = [line['time'] - line['data_time'] for line in lines if 'loss' in line]
    return {
        'mIoU': [line['mIoU'] for line in lines if 'mIoU' in line][-1],
        'time': statistics.median(times),
    }


def row(recipe: str, results: list[dict[str, float]]) -> list[str]:
    """The cells of a recipe: of each quantity the mean and, in brackets, the range."""
    cells = [recipe]
    for key, digits in (('mIoU', 1), ('time', 2), ('memory', 0)):
        values = [result[key] for result in results]
        low, mean, high = min(values), statistics.mean(values), max(values)
        cells.append(f'{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})')
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('recipes', nargs='*', default=DEFAULT, help='names in configs/finetune')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/finetune'))
    parser.add_argument('--cfg-options', nargs='+', default=[], help='as in train.py')
    arguments = parser.parse_args()

    table = Table('recipe', 'mIoU (%)', 's / iteration', 'peak memory (MB)', box=box.MARKDOWN)
    for recipe in arguments.recipes:
        folders = {seed: arguments.work_dir / f'{recipe}_{seed}' for seed in arguments.seeds}
        results = [run(recipe, s, f, arguments.cfg_options) for s, f in folders.items()]
        table.add_row(*row(recipe, results))
    print(f'\n{table_as_text(table)}')


if __name__ == '__main__':
    main()
