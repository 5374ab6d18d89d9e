"""Heads of several feature maps alone, as MMSegmentation's own configs build them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from mmengine.config import Config, ConfigDict
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor, nn

from pspnet_plugin.app.training.launch import stock_tools
from pspnet_plugin.replacements import REPLACEMENTS

from .inputs import FORMATS, feature_map
from .passes import BOTH, FORWARD, KEPT, memory, times
from .settings import Settings
from .table import Baseline, Table, Wanted

VARIANTS = ('stock', 'factorized')
FINEST_STRIDE = 4  # of the finest map to the crop; each further map has half its size
CONFIGS = {
    'UPerHead of Swin-T': 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
    'SegformerHead of MiT-B0': 'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
    'SegformerHead of MiT-B2': 'segformer/segformer_mit-b2_8xb1-160k_cityscapes-1024x1024',
    'FCNHead of HRNet-W18': 'hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024',
}

# What a factorized head has to reach on contiguous maps, batch 2, float32, on two CPU cores.
WANTED_AT = ('contiguous', (128, 128))
WANTED = {name: (Wanted(FORWARD, 'factorized', 'stock', low=2),) for name in CONFIGS}
WANTED['UPerHead of Swin-T'] += (
    Wanted(BOTH, 'factorized', 'stock', low=2),
    Wanted(KEPT, 'factorized', 'stock', high=0.5),
)


def head_config(name: str) -> ConfigDict:
    """The decode head of one of CONFIGS, with batch norm of one process."""
    path = stock_tools().parent / 'configs' / f'{CONFIGS[name]}.py'
    config = Config.fromfile(path).model.decode_head
    config.norm_cfg.type = 'BN'
    return config


def build(
    variant: str, name: str, order: torch.memory_format, settings: Settings
) -> tuple[nn.Module, list[Tensor]]:
    """The head of one of CONFIGS, stock's or ours, and the maps for it, the finest first."""
    register_all_modules()
    config = head_config(name)
    if variant != 'stock':
        config.type = REPLACEMENTS[config.type]
    torch.manual_seed(0)
    head = MODELS.build(config).to(settings.device, memory_format=order)
    sizes = [tuple(side // FINEST_STRIDE // 2**i for side in settings.crop) for i in range(4)]
    maps = [
        feature_map(size, settings, channels).contiguous(memory_format=order)
        for size, channels in zip(sizes, config.in_channels)
    ]
    return head, maps


def measure(settings: Settings) -> Iterator[Table]:
    """Two tables for each head, of contiguous maps and of channels-last ones."""
    for name in CONFIGS:
        for order in FORMATS:
            yield _measure_head(name, order, settings)


def _measure_head(name: str, order: str, settings: Settings) -> Table:
    builds = {v: partial(build, v, name, FORMATS[order], settings) for v in VARIANTS}
    config = head_config(name)
    height, width = finest = tuple(side // FINEST_STRIDE for side in settings.crop)
    return Table(
        title=f'{name}, {config.num_classes} classes, finest map of {height} x {width}, {order}',
        baselines=(Baseline('stock'),),
        quantities=(*times(builds, settings), *memory(builds, settings)),
        wanted=WANTED[name] if (order, finest) == WANTED_AT else (),
    )
