"""A tiny dataset in the layout of Cityscapes, and the options that make a run on it small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from tests.helpers.processes import ROOT

SIZE = (64, 128)  # rows, columns of the street scenes
CROP = (64, 64)


def write_street_scene(root: Path, split: str, city: str, number: int) -> None:
    """One image and its label map in the layout of Cityscapes: 19 train ids, 255 ignored."""
    rng = np.random.default_rng(number)
    labels = np.kron(rng.integers(0, 19, (4, 8)), np.ones((16, 16), int)).astype(np.uint8)
    labels[-8:] = 255
    colours = rng.integers(0, 256, (256, 3))
    image = np.clip(colours[labels] + rng.normal(0, 8, (*SIZE, 3)), 0, 255).astype(np.uint8)
    name = f'{city}_{number:06d}_000019'
    for folder, suffix, pixels in (
        ('leftImg8bit', '_leftImg8bit.png', image),
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


def cityscapes_at(root: Path | str) -> Config:
    """The plugin's Cityscapes config with its data in ``root``."""
    cfg = Config.fromfile(ROOT / 'configs' / 'psp_r50_cityscapes.py')
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].dataset.data_root = str(root)
    return cfg


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


# A narrow ResNet-18, for what does not depend on the size of the model.
NARROW = {
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 8,
    'model.backbone.stem_channels': 8,
    'model.decode_head.in_channels': 64,
    'model.decode_head.channels': 16,
    'model.auxiliary_head.in_channels': 32,
    'model.auxiliary_head.channels': 8,
}
# The same for a config of pspnet init, which trains in the process of the test.
NARROW_OWN_DATA = {
    'model.backbone.init_cfg': None,
    **NARROW,
    **{f'{split}_dataloader.num_workers': 0 for split in ('train', 'val')},
    **{f'{split}_dataloader.persistent_workers': False for split in ('train', 'val')},
}
NARROW_MODEL = [f'{key}={value}' for key, value in NARROW.items()]  # for --cfg-options
