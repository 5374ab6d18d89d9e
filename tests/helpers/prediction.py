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

from pspnet_plugin.replacements import REPLACEMENTS
from pspnet_plugin.utils.config_tree import dicts_within
from pspnet_plugin.utils.datasets import class_info
from tests.helpers.networks import randomized
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import NARROW

CONFIGS = sorted(
    path
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.relative_to(ROOT).parts
)


def small_config(path: Path) -> Config:
    """A config of the plugin with a narrow ResNet-18 where it has a ResNet, and small images."""
    cfg = Config.fromfile(path)
    if cfg.model.backbone.type.startswith('ResNet'):
        cfg.merge_from_dict(NARROW)
    for node in dicts_within([cfg.test_pipeline, cfg.test_dataloader]):
        if node.get('type') == 'Resize':
            node['scale'] = (160, 96)
    return cfg


def stock_build(cfg: Config) -> nn.Module:
    """The segmentor of ``cfg`` with random weights that predict many labels."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return randomized(MODELS.build(copy.deepcopy(cfg.model)))


def stock_config(cfg: Config) -> Config:
    """``cfg`` with mmseg's own classes where it names the plugin's."""
    stock = copy.deepcopy(cfg)
    names = {ours.__name__: name for name, ours in REPLACEMENTS.items()}
    names['LabelMapEncoderDecoder'] = 'EncoderDecoder'
    for node in dicts_within(stock.model):
        if node.get('type') in names:
            node['type'] = names[node['type']]
    return stock


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


def unusual_files(folder: Path) -> list[Path]:
    """Files of one photo, in the kinds that cameras and programs write."""
    rgb = Image.fromarray(photo(60, 90))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    rgb.save(folder / 'turned.jpg', exif=exif, quality=95)
    rgb.convert('CMYK').save(folder / 'cmyk.jpg', quality=95)
    rgb.convert('L').save(folder / 'grey.png')
    rgb.convert('RGBA').save(folder / 'rgba.png')
    rgb.convert('P').save(folder / 'palette.png')
    Image.fromarray(photo(60, 90)[..., 0].astype(np.uint16) * 257).save(folder / 'deep.png')
    Image.new('RGB', (1, 1), (200, 30, 60)).save(folder / 'one pixel.png')
    rgb.save(folder / '名字 mit ü.bmp')
    return sorted(path for path in folder.iterdir())


def broken_files(folder: Path) -> dict[str, str]:
    """Files that are no images, by name, and a word of what is said about each."""
    whole = folder / 'whole.jpg'
    Image.fromarray(photo(300, 400)).save(whole)
    content = whole.read_bytes()
    whole.unlink()
    png = Path(write_photo(folder / 'whole.png'))
    pixels = png.read_bytes()
    png.unlink()
    middle = len(pixels) // 2
    files = {
        'empty.jpg': (b'', 'is empty'),
        'text.jpg': (b'these are no pixels', "begins with the text 'these are"),
        'third.jpg': (content[: len(content) // 3], 'is cut or broken'),
        'half.png': (pixels[:middle], 'is cut or broken'),
        'flipped.png': (pixels[:middle] + b'\0\1\2\3' + pixels[middle + 4 :], 'is cut or broken'),
        'bytes.tif': (bytes(range(256)), 'is no image'),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    return {str(folder / name): said for name, (_, said) in files.items()}
