#!/usr/bin/env python
"""Fine-tune PSPNet on few labelled satellite images, from ImageNet weights and from random ones.

It runs the commands that you would type, and shows each of them; what an earlier run finished is
not done again. At the end: a table, a plot of mIoU over the number of labelled images, and a
figure of six validation tiles.
"""

from __future__ import annotations

import argparse
import os
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

import pspnet_plugin  # noqa: F401  makes the plugin's configs known to mmengine

TOOLS = Path(__file__).resolve().parent
RECIPES = TOOLS.parent / 'configs' / 'finetune'
LABELLED = (6, 12, 24, 96)
SEEDS = (0, 1)
ITERATIONS = 36
SHOWN = 12  # the runs whose predictions the figure shows
FIGURE_TILES = 6

# From ImageNet weights the head alone is trained, which takes less than half the time.
STARTS = {'ImageNet weights': 'frozen_backbone', 'random weights': 'from_scratch'}
ALL_RECIPES = ('frozen_backbone', 'gradual_unfreezing', 'full', 'from_scratch')
LAKES = 'rare_class'  # the recipe that finds some lakes; it takes longer


def run(tool: str, *arguments: object) -> None:
    """Run one of the tools, show its command line, and stop with its exit code if it fails."""
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    print(f'\n$ {shlex.join(["python", f"tools/{tool}", *command[2:]])}', flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def compare(work_dir: Path, full: bool, iterations: int) -> None:
    """Train on few and on many labelled images: two recipes and two seeds, or all and three."""
    recipes = ALL_RECIPES if full else STARTS.values()
    seeds = (0, 1, 2) if full else SEEDS
    jobs = min(os.cpu_count() or 1, 4)
    options = ['--plot', work_dir / 'few_labels.png', '--work-dir', work_dir, '--jobs', jobs]
    keys = ('train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler.0.end')
    options += ['--cfg-options', *(f'{key}={iterations}' for key in keys)]
    grid = ['--labelled', *LABELLED, '--seeds', *seeds]
    run('analysis/compare_finetuning.py', *recipes, *grid, *options)


def predict(recipe: str, folder: Path) -> Path:
    """The folder with the label maps that a trained model predicts for the validation tiles."""
    predictions = folder / 'predictions'
    (checkpoint,) = folder.glob('best_mIoU_*.pth')
    written = predictions.stat().st_mtime if predictions.is_dir() else 0
    if written < checkpoint.stat().st_mtime:
        config = RECIPES / f'{recipe}.py'
        run('test.py', config, checkpoint, '--work-dir', folder / 'test', '--out', predictions)
    return predictions


def find_lakes(work_dir: Path) -> Path:
    """The folder with the predictions of the recipe that finds some lakes."""
    folder = work_dir / LAKES
    if not list(folder.glob('best_mIoU_*.pth')):
        run('train.py', RECIPES / f'{LAKES}.py', '--work-dir', folder)
    return predict(LAKES, folder)


def most_mixed_tiles(labels: Path, count: int) -> list[str]:
    """The names of the ``count`` label maps that are nearest to half ocean, half land."""
    imbalances = {path.name: abs((plt.imread(path) == 0).mean() - 0.5) for path in labels.iterdir()}
    return sorted(imbalances, key=lambda name: (imbalances[name], name))[:count]


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
    parser.add_argument(
        '--full',
        action='store_true',
        help='four recipes, three seeds, 80 iterations; then one that finds some lakes',
    )
    parser.add_argument('--iterations', type=int, help=f'of each run (default: {ITERATIONS})')
    args = parser.parse_args()
    work_dir = args.work_dir / ('full' if args.full else 'few')
    dataset = Config.fromfile(RECIPES / f'{STARTS["random weights"]}.py').val_dataloader.dataset
    run('datasets/prepare_bluemarble.py', dataset.data_root)
    work_dir.mkdir(parents=True, exist_ok=True)
    compare(work_dir, args.full, args.iterations or (80 if args.full else ITERATIONS))
    predictions = {
        f'{start}\n{SHOWN} labels': predict(recipe, work_dir / f'{recipe}_{SHOWN}_images_seed_0')
        for start, recipe in STARTS.items()
    }
    if args.full:
        predictions['lakes count\n20 times'] = find_lakes(work_dir)
    figure = work_dir / 'comparison.png'
    draw(Path(dataset.data_root), predictions, dataset.metainfo.palette, figure)
    print(f'figures: {work_dir / "few_labels.png"}, {figure}')


if __name__ == '__main__':
    main()
