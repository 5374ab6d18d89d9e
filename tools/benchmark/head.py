"""The head alone, compared with stock's and with the least that a PSP head has to compute."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from mmseg.models.decode_heads import PSPHead
from torch import Tensor, nn

from pspnet_plugin.heads import FactorizedPSPHead

from .inputs import feature_map
from .memory import kept_for_backward, peak_memory, state_of
from .settings import Settings
from .table import Baseline, Quantity, Table, Wanted
from .timing import Step, time_alternately

FORWARD, BOTH, KEPT = 'forward', 'forward + backward', 'kept for backward, without x'
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


def build(variant: str, settings: Settings) -> nn.Module:
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


def prepare_forward(variant: str, size: tuple[int, int], settings: Settings) -> Step:
    """The forward pass in prediction."""
    call = settings.compiled(build(variant, settings).eval())
    x = feature_map(size, settings)

    def step() -> None:
        with torch.no_grad(), settings.autocast():
            call([x])

    return step


def prepare_both(variant: str, size: tuple[int, int], settings: Settings) -> Step:
    """The forward pass in training, and the gradients of x and of every parameter."""
    module = build(variant, settings).train()
    call = settings.compiled(module)
    x = feature_map(size, settings).requires_grad_()
    classes = settings.channels // 4 if variant == LIMIT else settings.classes
    gradient = torch.randn(settings.batch, classes, *size).to(x)

    def step() -> None:
        module.zero_grad()
        x.grad = None
        with settings.autocast():
            out = call([x])
        out.backward(gradient)

    return step


def kept(variant: str, size: tuple[int, int], settings: Settings) -> tuple[int, int]:
    """Bytes that autograd keeps, parameters excepted: without those of x, and those of x."""
    module = build(variant, settings).train()
    call = settings.compiled(module)
    x = feature_map(size, settings).requires_grad_()

    def forward() -> Tensor:
        with settings.autocast():
            return call([x])

    own = state_of(module)
    without_x = kept_for_backward(forward, [*own, x])
    return without_x, kept_for_backward(forward, own) - without_x


def measure(settings: Settings) -> Iterator[Table]:
    """One table for each feature-map size, as soon as it is measured."""
    for size in settings.sizes:
        yield _measure_size(size, settings)


def _measure_size(size: tuple[int, int], settings: Settings) -> Table:
    def prepared(prepare) -> dict:
        return {name: partial(prepare, name, size, settings) for name in VARIANTS}

    forward, both = prepared(prepare_forward), prepared(prepare_both)
    memory = {name: kept(name, size, settings) for name in VARIANTS}
    quantities = (
        Quantity(FORWARD, 's', _timed(forward, settings)),
        Quantity(BOTH, 's', _timed(both, settings)),
        Quantity(f'peak memory, {FORWARD}', 'bytes', peak_memory(forward, settings)),
        Quantity(f'peak memory, {BOTH}', 'bytes', peak_memory(both, settings)),
        Quantity(KEPT, 'bytes', {name: [without] for name, (without, _) in memory.items()}),
        Quantity('x itself', 'bytes', {name: [of_x] for name, (_, of_x) in memory.items()}),
    )
    return Table(
        title=title(size),
        baselines=(Baseline('stock'), Baseline(LIMIT, as_speed=False)),
        quantities=quantities,
        wanted=WANTED.get(size, ()),
    )


def title(size: tuple[int, int]) -> str:
    """The title of the table for a size."""
    return f'PSP head on a map of {size[0]} x {size[1]}'


def _timed(preparations: dict, settings: Settings) -> dict[str, list[float]]:
    steps = {name: prepare() for name, prepare in preparations.items()}
    return time_alternately(steps, settings)
