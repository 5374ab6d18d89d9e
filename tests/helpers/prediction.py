"""The plugin's configs at a size that a CPU predicts with in no time, checkpoints and images."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import save_checkpoint
from mmseg.registry import MODELS
from PIL import Image
from torch import nn

from pspnet_plugin.prediction.classes import class_info
from pspnet_plugin.runs.launch import dicts_within
from tests.helpers.networks import randomized
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import NARROW_MODEL

CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.relative_to(ROOT).parts
)


def small_config(path: Path) -> Config:
    """A config of the plugin with a narrow ResNet-18 where it has a ResNet, and small images."""
    cfg = Config.fromfile(path)
    if cfg.model.backbone.type.startswith('ResNet'):
        pairs = (option.split('=') for option in NARROW_MODEL)
        cfg.merge_from_dict({key: int(value) for key, value in pairs})
    for node in dicts_within([cfg.test_pipeline, cfg.test_dataloader]):
        if node.get('type') == 'Resize':
            node['scale'] = (160, 96)
    return cfg


def stock_build(cfg: Config) -> nn.Module:
    """The segmentor of ``cfg`` with random weights that predict many labels."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return randomized(MODELS.build(copy.deepcopy(cfg.model)))


def random_checkpoint(cfg: Config, path: Path) -> str:
    """Save a checkpoint of ``cfg`` as mmengine's runner does, with random weights."""
    classes, palette = class_info(cfg, {}, cfg.model.decode_head.num_classes)
    model = stock_build(cfg)
    content = {
        'state_dict': model.state_dict(),
        'meta': {'dataset_meta': {'classes': classes, 'palette': palette}},
    }
    save_checkpoint(content, str(path))
    return str(path)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with structure at several scales."""
    rng = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3))
    for cells in (2, 4, 9, 17):
        noise = rng.normal(size=(cells, cells, 3))
        rows = np.linspace(0, cells - 1, height).round().astype(int)
        columns = np.linspace(0, cells - 1, width).round().astype(int)
        pixels += noise[rows][:, columns]
    return np.clip(128 + 45 * pixels, 0, 255).astype(np.uint8)


def write_photo(path: Path, height: int = 67, width: int = 101, seed: int = 0) -> str:
    """Write such an image as a file of the kind that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(height, width, seed)).save(path)
    return str(path)


def share_equal(labels: object, expected: object) -> float:
    """The share of pixels with the same label; a constant map would prove nothing."""
    ours, theirs = np.asarray(labels), np.asarray(expected)
    assert ours.shape == theirs.shape
    assert np.unique(theirs).size > 1
    return float((ours == theirs).mean())
