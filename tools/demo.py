#!/usr/bin/env python
"""Fine-tune PSPNet on few labelled satellite images, from ImageNet weights and from random ones.

It runs the commands that you would type, and shows each of them; what an earlier run finished is
not done again. At the end: a table, a plot of mIoU over iterations, a figure of six validation
tiles, and what to do next. Other options than its own are those of compare_finetuning.py.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config
from PIL import Image

from pspnet_plugin import init_model, predict

TOOLS = Path(__file__).resolve().parent
RECIPES = TOOLS.parent / 'configs' / 'finetune'
STARTS = {'ImageNet weights': 'full', 'random weights': 'from_scratch'}
# Recipes, numbers of labelled images and seeds.
FEW = ['full', 'probe_then_finetune', 'from_scratch'], [12, 96], [0, 1]
FULL = ['frozen_backbone', 'gradual_unfreezing', *FEW[0]], [6, 12, 24, 96], [0, 1, 2]
NEXT = """
Next, with your own images and their label maps:
  {pspnet} init photos masks --out mine    looks at them, splits them, writes mine/mine.py
  {pspnet} train mine/mine.py
or the course of two of these runs, loss and learning rate included:
  {pspnet} plot {runs} --out curves.png"""


def run(tool: str, *arguments: object) -> None:
    """Run one of the tools, show its command line, and stop with its exit code if it fails."""
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    print(f'\n$ {shlex.join(["python", f"tools/{tool}", *command[2:]])}', flush=True)
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def imbalance(label_map: Path) -> tuple[float, str]:
    """How far a label map is from half water, half land; the name decides between equals."""
    return abs((pixels(label_map) == 0).mean() - 0.5), label_map.name


def draw(dataset: Config, runs: dict[str, Path], labelled: int, target: Path) -> None:
    """Draw a column for each of six tiles: image, label and what each start predicts."""
    images, labels = (Path(dataset.data_root, path) for path in dataset.data_prefix.values())
    shown = sorted(labels.iterdir(), key=imbalance)[:6]
    tiles = [images / label_map.name for label_map in shown]
    colours = np.array(dataset.metainfo.palette, dtype=np.uint8)
    rows = {'image': map(pixels, tiles), 'label': [colours[pixels(path)] for path in shown]}
    for start, folder in runs.items():
        (checkpoint,) = folder.glob('iter_*.pth')
        model = init_model(RECIPES / f'{STARTS[start]}.py', checkpoint)
        rows[f'{start}\n{labelled} labels'] = [colours[p.label_map] for p in predict(model, tiles)]
    figure = Figure(figsize=(1.6 * len(tiles), 1.6 * len(rows)), layout='constrained')
    for (title, pictures), row in zip(rows.items(), figure.subplots(len(rows), len(tiles))):
        row[0].set_ylabel(title)
        for axis, picture in zip(row, pictures):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
    figure.savefig(target, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/bluemarble'))
    parser.add_argument('--full', action='store_true', help='more recipes, labels and seeds')
    args, others = parser.parse_known_args()
    recipes, labelled, seeds = FULL if args.full else FEW
    work_dir = args.work_dir / ('full' if args.full else 'few')
    dataset = Config.fromfile(RECIPES / 'full.py').val_dataloader.dataset
    run('datasets/prepare_bluemarble.py', dataset.data_root)
    grid = ['--labelled', *labelled, '--seeds', *seeds, '--jobs', min(os.cpu_count() or 1, 4)]
    files = ['--work-dir', work_dir, '--plot', work_dir / 'few_labels.png']
    run('analysis/compare_finetuning.py', *recipes, *grid, *files, *others)
    runs = {
        start: work_dir / f'{recipe}_{labelled[0]}_images_seed_{seeds[0]}'
        for start, recipe in STARTS.items()
    }
    figure = work_dir / 'comparison.png'
    draw(dataset, runs, labelled[0], figure)
    print(f'figure: {figure}')
    command = os.path.relpath(Path(sys.executable).with_name('pspnet'))
    print(NEXT.format(pspnet=command, runs=shlex.join(map(str, runs.values()))))


if __name__ == '__main__':
    main()
