"""Models of MMSegmentation's families: which config, built small, and a batch for it."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
import yaml
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from pspnet_plugin.app.training.machine import fit_to_cpu
from pspnet_plugin.app.training.tools import stock_tools
from pspnet_plugin.replacements import REPLACEMENTS
from pspnet_plugin.utils.config_tree import dicts_within

CONFIGS = stock_tools().parent / 'configs'
IGNORED = 255  # the label


def typical_config(family: str, unread: list[Exception]) -> tuple[str, Config]:
    """The config in which most classes are replaced; of several, the one that needs least memory.

    The memory is what the family's metafile says of training; the name decides between equals.
    Errors of configs that cannot be read are added to ``unread``.
    """
    configs = {}
    for path in sorted((CONFIGS / family).glob('*.py')):
        try:
            configs[path.name] = Config.fromfile(path)
        except Exception as error:  # a config may import what is not installed
            unread.append(error)
    memory = training_memory(family)

    def order(name: str) -> tuple:
        types = {str(node.get('type')) for node in dicts_within(configs[name].model)}
        return -len(types & set(REPLACEMENTS)), memory.get(name, math.inf), name

    name = min(configs, key=order)
    return name, configs[name]


def training_memory(family: str) -> dict[str, float]:
    """GB that training needs, by the name of the config, where the family's metafile tells."""
    path = CONFIGS / family / 'metafile.yaml'
    models = yaml.safe_load(path.read_text())['Models'] if path.is_file() else []
    told = {Path(model['Config']).name: model.get('Metadata') or {} for model in models}
    return {name: told[name]['Memory (GB)'] for name in told if 'Memory (GB)' in told[name]}


def prepared(cfg: Config, size: int) -> Config:
    """The config for images of another size, with random weights, and without a GPU."""
    cfg = copy.deepcopy(cfg)
    fit_to_cpu(cfg)
    for node in dicts_within(cfg.model):
        if 'Pretrained' in str(node.get('init_cfg')):
            del node['init_cfg']
        if isinstance(node.get('pretrained'), (str, bool)):
            node['pretrained'] = None
        if 'img_size' in node:  # transformers have weights for each position
            node['img_size'] = (size, size)
    return cfg


def build(cfg: Config) -> nn.Module:
    """The model, initialized at random, without dropout, and with images as they are."""
    model = MODELS.build(copy.deepcopy(cfg.model))
    model.init_weights()
    model.data_preprocessor = BaseDataPreprocessor()  # mmseg's makes float32 of the images
    for module in model.modules():
        for name in ('p', 'drop_prob', 'dropout', 'dropout_ratio'):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Give weights and statistics that are all the same, as zeros are, values that can be seen."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.numel() and tensor.min() == tensor.max():
            tensor.add_(0.1 * torch.randn_like(tensor).clamp(-3, 3))


def batch_of(images: int, size: int, classes: int) -> dict[str, list]:
    """Noise with random labels, edges and depths, as a data loader returns them."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(images, 3, size, size, generator=generator)
    samples = []
    for _ in range(images):
        labels = torch.randint(0, classes, (1, size, size), generator=generator)
        labels[:, : size // 8] = IGNORED
        edges = torch.randint(0, 2, (1, size, size), generator=generator)
        depths = torch.rand(1, size, size, generator=generator)
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.gt_edge_map, sample.gt_depth_map = PixelData(data=edges), PixelData(data=depths)
        shape = {'img_shape': (size, size), 'ori_shape': (size, size), 'pad_shape': (size, size)}
        sample.set_metainfo(shape)
        samples.append(sample)
    return {'inputs': inputs, 'data_samples': samples}


def without_ignored(batch: dict) -> dict:
    batch = copy.deepcopy(batch)
    for sample in batch['data_samples']:
        labels = sample.gt_sem_seg.data
        labels[labels == IGNORED] = 0
    return batch
