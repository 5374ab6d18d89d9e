"""Decode heads alone: from feature maps to logits and back, and from logits to the loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Callable

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from pspnet_plugin.replacements import REPLACEMENTS
from pspnet_plugin.utils.config_files import read_config

from .measuring import Case, Settings, Size, Step, feature_map, label_maps

STOCK, OURS, LIMIT = 'stock', 'ours', 'limit: 3 x 3 convolution of x'
FINEST_STRIDE = 4  # of the finest of several maps to the crop; each further map has half its size
LOGITS_STRIDE = 8  # of the logits to the labels of the loss
CONFIGS = {
    'UPerHead of Swin-T': 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
    'SegformerHead of MiT-B0': 'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
    'SegformerHead of MiT-B2': 'segformer/segformer_mit-b2_8xb1-160k_cityscapes-1024x1024',
    'FCNHead of HRNet-W18': 'hrnet/fcn_hr18_4xb2-40k_cityscapes-512x1024',
}
Shapes = list[tuple[int, int, int]]  # channels, height and width of each feature map
Build = Callable[[], nn.Module]


class ConvolutionOfX(nn.Conv2d):
    """The part of the PSP head's bottleneck that reads x: no pyramid, norm, activation, classes."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return super().forward(maps[-1])


def psp_cases(settings: Settings) -> Iterator[Case]:
    """The PSP head alone on maps of several sizes, and the least that it has to compute."""
    channels = settings.channels
    limit = partial(ConvolutionOfX, channels, channels // 4, 3, padding=1, bias=False)
    builds: dict[str, Build] = {**psp_head(channels, settings.classes), LIMIT: limit}
    for height, width in settings.sizes:
        label = f'PSP head, x of {height} x {width}'
        yield from passes(label, builds, [(channels, height, width)], settings)


def other_cases(settings: Settings) -> Iterator[Case]:
    """Heads of several feature maps alone, as MMSegmentation's own configs build them."""
    for head, (builds, shapes) in other_heads(settings.crop).items():
        _, height, width = shapes[0]
        yield from passes(f'{head}, finest map {height} x {width}', builds, shapes, settings)


def psp_head(channels: int, classes: int) -> dict[str, Build]:
    config = {'type': 'PSPHead', 'in_channels': channels, 'channels': channels // 4}
    return stock_and_ours({**config, 'num_classes': classes, 'norm_cfg': {'type': 'BN'}})


def other_heads(crop: Size) -> dict[str, tuple[dict[str, Build], Shapes]]:
    """Stock and ours of each of CONFIGS, and the shapes of the maps of a crop."""
    heads = {}
    for head, name in CONFIGS.items():
        config = read_config(f'mmseg::{name}.py').model.decode_head
        config.norm_cfg.type = 'BN'  # of one process
        height, width = (side // FINEST_STRIDE for side in crop)
        shapes = [(c, height >> i, width >> i) for i, c in enumerate(config.in_channels)]
        heads[head] = stock_and_ours(config), shapes
    return heads


def stock_and_ours(config: dict) -> dict[str, Build]:
    """The head of a stock config, and ours in its place with the same random weights."""

    def build(kind: str | type) -> nn.Module:
        torch.manual_seed(0)
        return MODELS.build({**config, 'type': kind})

    kind = config['type']
    return {STOCK: partial(build, kind), OURS: partial(build, REPLACEMENTS[kind])}


def passes(
    label: str, builds: dict[str, Build], shapes: Shapes, settings: Settings
) -> Iterator[Case]:
    """The forward pass in prediction, then forward and backward in training."""

    def steps(prepare: Callable) -> dict[str, Step]:
        return {row: prepare(build(), shapes, settings) for row, build in builds.items()}

    yield Case(f'{label}, forward', partial(steps, forward))
    yield Case(f'{label}, forward + backward', partial(steps, forward_backward))


def forward(head: nn.Module, shapes: Shapes, settings: Settings) -> Step:
    """The forward pass in prediction; returns the logits."""
    maps = [feature_map(shape, settings) for shape in shapes]
    call = settings.compiled(head.to(settings.device, memory_format=settings.memory_format).eval())

    def step() -> Tensor:
        with torch.no_grad(), settings.autocast():
            return call(maps)

    return step


def forward_backward(head: nn.Module, shapes: Shapes, settings: Settings) -> Step:
    """Forward and backward in training; returns the gradients of the maps."""
    maps = [feature_map(shape, settings).requires_grad_() for shape in shapes]
    gradient = feature_map((head.out_channels, *shapes[0][1:]), settings, seed=1)
    call = settings.compiled(head.to(settings.device, memory_format=settings.memory_format).train())

    def step() -> list[Tensor | None]:
        for tensor in (*maps, *head.parameters()):
            tensor.grad = None
        with settings.autocast():
            logits = call(maps)
        logits.backward(gradient)
        return [x.grad for x in maps]

    return step


def loss_cases(settings: Settings) -> Iterator[Case]:
    """Loss and backward pass of decode and auxiliary head from their small logits."""
    rows = {STOCK: ('PSPHead', 'FCNHead'), OURS: ('FactorizedPSPHead', 'FactorizedFCNHead')}

    def steps() -> dict[str, Step]:
        return {row: loss_step(kinds, settings) for row, kinds in rows.items()}

    label = f'{settings.classes} classes, batch {settings.batch} of {settings.crop_as_text}'
    yield Case(f'loss + backward of two heads, {label}', steps)


def loss_step(kinds: tuple[str, ...], settings: Settings) -> Step:
    """Losses of heads and the gradients of their logits; returns the sum of the losses."""
    # The step starts from logits, so the widths of the heads do not matter.
    widths = {'in_channels': 1, 'channels': 1, 'num_classes': settings.classes}
    heads = [MODELS.build({'type': kind, **widths}) for kind in kinds]
    shape = settings.classes, *(side // LOGITS_STRIDE for side in settings.crop)
    samples = label_maps(settings.classes, settings)
    losses = [settings.compiled(head.loss_by_feat) for head in heads]
    logits = [feature_map(shape, settings, seed).requires_grad_() for seed in range(len(heads))]

    def step() -> Tensor:
        for each in logits:
            each.grad = None
        with settings.autocast():
            total = sum(loss(each, samples)['loss_ce'] for loss, each in zip(losses, logits))
        total.backward()
        return total.detach()

    return step
