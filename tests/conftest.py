"""What test folders share: a tiny street-scene dataset, and Python as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

import pspnet_plugin  # noqa: F401  repairs the stock stack before any test imports mmseg.models

ROOT = Path(__file__).resolve().parents[1]
SIZE = (64, 128)  # rows, columns of the street scenes
CROP = (64, 64)


@pytest.fixture(autouse=True)
def no_scope_of_an_earlier_run():
    """A Runner leaves its default scope behind, in which the next test's registries would look."""
    DefaultScope._instance_dict.clear()


def write_street_scene(root: Path, split: str, city: str, number: int) -> None:
    """One picture and its label map in the layout of Cityscapes: 19 train ids, 255 ignored."""
    rng = np.random.default_rng(number)
    labels = np.kron(rng.integers(0, 19, (4, 8)), np.ones((16, 16), int)).astype(np.uint8)
    labels[-8:] = 255
    colours = rng.integers(0, 256, (256, 3))
    picture = np.clip(colours[labels] + rng.normal(0, 8, (*SIZE, 3)), 0, 255).astype(np.uint8)
    name = f'{city}_{number:06d}_000019'
    for folder, suffix, pixels in (
        ('leftImg8bit', '_leftImg8bit.png', picture),
        ('gtFine', '_gtFine_labelTrainIds.png', labels),
    ):
        target = root / folder / split / city
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target / (name + suffix))


def make_street_scenes(root: Path) -> Path:
    for number in range(4):
        write_street_scene(root, 'train', 'aachen', number)
    for number in range(4, 6):
        write_street_scene(root, 'val', 'frankfurt', number)
    return root


@pytest.fixture(scope='session')
def street_scenes(tmp_path_factory) -> Path:
    """Six pictures of 64 x 128 pixels in the exact folders and names of Cityscapes."""
    return make_street_scenes(tmp_path_factory.mktemp('cityscapes'))


def small_run_options(data_root: Path, iterations: int = 4, interval: int = 2) -> list[str]:
    """``--cfg-options`` that shrink a Cityscapes config to something a CPU trains in seconds."""
    crop = f'({CROP[0]},{CROP[1]})'
    options = {
        'model.backbone.init_cfg': None,
        'model.data_preprocessor.size': crop,
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.pipeline.3.scale': '(128,64)',
        'train_dataloader.dataset.pipeline.4.crop_size': crop,
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': iterations,
        'default_hooks.checkpoint.interval': interval,
        'default_hooks.logger.interval': 1,
        'randomness.seed': 0,
    }
    for loader in ('train', 'val', 'test'):
        options[f'{loader}_dataloader.num_workers'] = 0
        options[f'{loader}_dataloader.persistent_workers'] = False
        options[f'{loader}_dataloader.dataset.data_root'] = data_root
    for loader in ('val', 'test'):
        options[f'{loader}_dataloader.dataset.pipeline.1.scale'] = '(128,64)'
    return ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]


def start_python(*arguments: object, cwd: Path | None = None, **options) -> subprocess.Popen:
    """Start a Python process as a user would from a shell, with its output as text."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd or ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
        **options,
    )


def run_python(*arguments: object, cwd: Path | None = None) -> tuple[int, str]:
    """Run a Python process to its end: its exit code, and all that it printed."""
    process = start_python(*arguments, cwd=cwd)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output
