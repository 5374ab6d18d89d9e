"""The head alone, compared with stock's and with the least that a PSP head has to compute."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from mmseg.models.decode_heads import PSPHead
from torch import Tensor, nn

from pspnet_plugin.heads import FactorizedPSPHead

from .inputs import feature_map
from .passes import BOTH, FORWARD, KEPT, memory, peaks, times
from .settings import Settings
from .table import Baseline, Table, Wanted

LIMIT = '3 x 3 conv on x'
VARIANTS = ('stock', 'factorized', LIMIT)

# What the factorized head has to reach for 2048 channels, batch 2, float32, on two CPU cores.
WANTED = {
    (64, 128): (
        Wanted(FORWARD, 'factorized', 'stock', low=1.9),
        Wanted(FORWARD, 'factorized', LIMIT, high=1.08),
        Wanted(BOTH, 'factorized', 'stock', low=1.8),
        Wanted(KEPT, 'factorized', 'stock', high=0.35),
    ),
    (97, 97): (Wanted(FORWARD, 'factorized', 'stock', low=1.8),),
    (32, 32): (Wanted(FORWARD, 'factorized', 'stock', low=1.6),),
}


class ConvOnX(nn.Conv2d):
    """The part of the bottleneck that reads x: no pyramid, norm, activation or classes."""

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return super().forward(inputs[-1])


def build(
    variant: str, size: tuple[int, int], settings: Settings
) -> tuple[nn.Module, list[Tensor]]:
    """One of VARIANTS, and the list with x that it is called with."""
    return build_module(variant, settings), [feature_map(size, settings)]


def build_module(variant: str, settings: Settings) -> nn.Module:
    """One of VARIANTS, called like a head with a list that holds x."""
    channels, width = settings.channels, settings.channels // 4
    torch.manual_seed(0)
    if variant == LIMIT:
        return ConvOnX(channels, width, 3, padding=1, bias=False).to(settings.device)
    head = {'stock': PSPHead, 'factorized': FactorizedPSPHead}[variant]
    return head(
        in_channels=channels,
        channels=width,
        num_classes=settings.classes,
        norm_cfg={'type': 'BN'},
        align_corners=False,
    ).to(settings.device)


def measure(settings: Settings) -> Iterator[Table]:
    """One table for each feature-map size, as soon as it is measured."""
    for size in settings.sizes:
        yield _measure_size(size, settings)


def _measure_size(size: tuple[int, int], settings: Settings) -> Table:
    builds = {name: partial(build, name, size, settings) for name in VARIANTS}
    return Table(
        title=title(size),
        baselines=(Baseline('stock'), Baseline(LIMIT, as_speed=False)),
        quantities=(
            *times(builds, settings),
            *peaks(builds, settings),
            *memory(builds, settings),
        ),
        wanted=WANTED.get(size, ()),
    )


def title(size: tuple[int, int]) -> str:
    """The title of the table for a size."""
    return f'PSP head on a map of {size[0]} x {size[1]}'
