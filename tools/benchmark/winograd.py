"""3 x 3 convolutions directly and by tiles, and whether the plugin takes the faster way of both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pspnet_plugin.ops.winograd import conv2d_3x3, pays

from .inputs import FORMATS, feature_map
from .settings import Settings
from .table import Baseline, Quantity, Table, Wanted
from .timing import Step, time_alternately

DIRECT, TILES = 'direct', 'tiles'
# From and to how many channels: near the line and on both sides of it, and those of PSPNet's head.
CHANNELS = (
    (128, 128),
    (192, 192),
    (256, 128),
    (256, 256),
    (384, 384),
    (512, 256),
    (512, 512),
    (2048, 512),
)
TOLERANCE = 0.1  # by which the way that is taken may be slower than the other


def direct(x: Tensor, weight: Tensor) -> Tensor:
    """PyTorch's own convolution."""
    return F.conv2d(x, weight, padding=1)


WAYS = {DIRECT: direct, TILES: conv2d_3x3}


def prepare_forward(way: Callable, x: Tensor, weight: Tensor) -> Step:
    """The result alone."""

    def step() -> None:
        with torch.no_grad():
            way(x, weight)

    return step


def prepare_both(way: Callable, x: Tensor, weight: Tensor) -> Step:
    """The result, and the gradients of x and of the weight."""
    inputs = x.detach().requires_grad_(), weight.detach().requires_grad_()
    gradient = torch.randn_like(way(x, weight))

    def step() -> None:
        torch.autograd.grad(way(*inputs), inputs, gradient)

    return step


PREPARATIONS = {'forward': prepare_forward, 'forward + backward': prepare_both}


def measure(settings: Settings) -> Iterator[Table]:
    """A table for each size and each order in memory."""
    for size in settings.sizes:
        for order in FORMATS:
            yield _measure_size(size, order, settings)


def _measure_size(size: tuple[int, int], order: str, settings: Settings) -> Table:
    quantities, wanted = [], []
    for channels, outputs in CHANNELS:
        x = feature_map(size, settings, channels).contiguous(memory_format=FORMATS[order])
        weight = torch.randn(outputs, channels, 3, 3).to(x, memory_format=FORMATS[order])
        for part, prepare in PREPARATIONS.items():
            name = f'{channels} to {outputs} channels, {part}'
            steps = {row: prepare(way, x, weight) for row, way in WAYS.items()}
            quantities.append(Quantity(name, 's', time_alternately(steps, settings)))
            wanted.append(_wanted(name, taken=pays(x, weight)))
    return Table(
        title=f'3 x 3 convolution of {settings.batch} x {size[0]} x {size[1]}, {order}',
        baselines=(Baseline(DIRECT),),
        quantities=tuple(quantities),
        wanted=tuple(wanted),
    )


def _wanted(name: str, taken: bool) -> Wanted:
    """That the tiles are fast where the plugin takes them, and slow where it does not."""
    if taken:
        return Wanted(name, TILES, DIRECT, low=1 - TOLERANCE)
    return Wanted(name, TILES, DIRECT, high=1 + TOLERANCE)
