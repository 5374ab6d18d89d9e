#!/usr/bin/env python
"""Fine-tune PSPNet on satellite images, from ImageNet weights and from random ones, and compare.

It runs the commands that you would type, and shows each of them; what an earlier run finished is
not done again. At the end: a table, and a figure of six validation tiles.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
import numpy as np
from mmengine.config import Config
from PIL import Image
from rich.console import Console
from rich.table import Table

import pspnet_plugin  # noqa: F401  makes the plugin's configs known to mmengine

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / 'configs' / 'psp_efflite0_bluemarble.py'
FIGURE_TILES = 6

# What each run changes in the config. The backbone of random weights is trained from the first
# iteration on, because freezing it for a while would be a handicap.
RUNS = {
    'ImageNet weights': [],
    'random weights': ['model.backbone.init_cfg=None', 'custom_hooks=[]'],
}


def run(tool: str, *arguments: object) -> None:
    """Run one of the tools, show its command line, and stop with its exit code if it fails."""
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    print(f'\n$ {shlex.join(["python", f"tools/{tool}", *command[2:]])}', flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def train(folder: Path, options: list[str], iterations: int) -> Path:
    """Train in ``folder`` unless its last checkpoint is there; resume an interrupted run."""
    last = folder / f'iter_{iterations}.pth'
    if last.is_file():
        print(f'\n{last} is there already')
        return last
    resume = ['--resume'] if (folder / 'last_checkpoint').is_file() else []
    changes = ['--cfg-options', *options] if options else []
    run('train.py', CONFIG, '--work-dir', folder, *resume, *changes)
    return last


def evaluate(folder: Path, checkpoint: Path) -> dict[str, float]:
    """Test ``checkpoint``: predictions into ``folder/predictions``, the metrics returned."""
    metrics = folder / 'metrics.json'
    there = metrics.is_file() and (folder / 'predictions').is_dir()
    if not there or metrics.stat().st_mtime < checkpoint.stat().st_mtime:
        before = set(folder.glob('*/*.json'))
        output = ['--work-dir', folder, '--out', folder / 'predictions']
        run('test.py', CONFIG, checkpoint, *output)
        (written,) = set(folder.glob('*/*.json')) - before
        metrics.write_text(written.read_text())
    return json.loads(metrics.read_text())


def print_table(results: dict[str, dict[str, float]], iterations: int) -> None:
    table = Table(title=f'Blue Marble, {iterations} iterations each')
    table.add_column('start from')
    table.add_column('pixel accuracy (aAcc, %)', justify='right')
    table.add_column('mean IoU (mIoU, %)', justify='right')
    for name, metrics in results.items():
        table.add_row(name, f'{metrics["aAcc"]:.1f}', f'{metrics["mIoU"]:.1f}')
    Console().print(table)


def most_mixed_tiles(labels: Path, count: int) -> list[str]:
    """The names of the ``count`` label maps that are nearest to half ocean, half land."""

    def imbalance(path: Path) -> float:
        with Image.open(path) as label_map:
            return abs(np.mean(np.asarray(label_map) == 0) - 0.5)

    return [path.name for path in sorted(labels.glob('*.png'), key=imbalance)[:count]]


def draw(data: Path, predictions: dict[str, Path], palette, target: Path) -> None:
    """Draw a row each for image, label and the predictions, and a column for each tile."""
    rows = {'image': data / 'images/val', 'label': data / 'labels/val', **predictions}
    names = most_mixed_tiles(data / 'labels/val', FIGURE_TILES)
    colours = np.array(palette, dtype=np.uint8)
    figure, axes = plt.subplots(
        len(rows), len(names), figsize=(1.6 * len(names), 1.6 * len(rows)), layout='constrained'
    )
    for (title, folder), row in zip(rows.items(), axes):
        row[0].set_ylabel(title)
        for axis, name in zip(row, names):
            with Image.open(folder / name) as tile:
                pixels = np.asarray(tile)
            axis.imshow(pixels if title == 'image' else colours[pixels])
            axis.set(xticks=[], yticks=[])
    figure.savefig(target, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/bluemarble'))
    parser.add_argument('--iterations', type=int, help='of each run (default: as in the config)')
    args = parser.parse_args()
    cfg = Config.fromfile(CONFIG)
    iterations = args.iterations or cfg.train_cfg.max_iters
    keys = ('train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler.0.end')
    budget = [f'{key}={iterations}' for key in keys]
    dataset = cfg.val_dataloader.dataset
    run('datasets/prepare_bluemarble.py', dataset.data_root)
    results, predictions = {}, {}
    for name, changes in RUNS.items():
        options = changes if args.iterations is None else [*changes, *budget]
        folder = args.work_dir / f'{name.replace(" ", "_")}_{iterations}'
        checkpoint = train(folder, options, iterations)
        results[name] = evaluate(folder, checkpoint)
        predictions[name] = folder / 'predictions'
    figure = args.work_dir / 'comparison.png'
    draw(Path(dataset.data_root), predictions, dataset.metainfo.palette, figure)
    print_table(results, iterations)
    print(f'picture: {figure}')


if __name__ == '__main__':
    main()
