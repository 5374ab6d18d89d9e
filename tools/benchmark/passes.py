"""Forward and backward passes of a head that is called with feature maps, and what they keep."""

from __future__ import annotations

from functools import partial
from typing import Callable

import torch
from torch import Tensor, nn

from pspnet_plugin.ops.memory_format import is_channels_last

from .memory import kept_for_backward, peak_memory, state_of
from .settings import Settings
from .table import Quantity
from .timing import Step, time_alternately

# Makes a module with ``out_channels``, and the maps (N, C, H, W) that it is called with as a list;
# its result has the size of the first.
Build = Callable[[], tuple[nn.Module, list[Tensor]]]

FORWARD, BOTH = 'forward', 'forward + backward'
KEPT, MAPS = 'kept for backward, without the maps', 'the maps'


def prepare_forward(build: Build, settings: Settings) -> Step:
    """The forward pass in prediction."""
    module, maps = build()
    call = settings.compiled(module.eval())

    def step() -> None:
        with torch.no_grad(), settings.autocast():
            call(maps)

    return step


def prepare_both(build: Build, settings: Settings) -> Step:
    """The forward pass in training, and the gradients of the maps and of every parameter."""
    module, maps = build()
    call = settings.compiled(module.train())
    for x in maps:
        x.requires_grad_()
    first = maps[0]
    order = torch.channels_last if is_channels_last(first) else torch.contiguous_format
    gradient = torch.randn(len(first), module.out_channels, *first.shape[2:]).to(first)
    gradient = gradient.contiguous(memory_format=order)

    def step() -> None:
        module.zero_grad()
        for x in maps:
            x.grad = None
        with settings.autocast():
            out = call(maps)
        out.backward(gradient)

    return step


PREPARATIONS = {FORWARD: prepare_forward, BOTH: prepare_both}


def kept(build: Build, settings: Settings) -> tuple[int, int]:
    """Bytes that autograd keeps, parameters excepted: without the maps, and those of the maps."""
    module, maps = build()
    call = settings.compiled(module.train())
    for x in maps:
        x.requires_grad_()

    def forward() -> Tensor:
        with settings.autocast():
            return call(maps)

    own = state_of(module)
    without = kept_for_backward(forward, [*own, *maps])
    return without, kept_for_backward(forward, own) - without


def times(builds: dict[str, Build], settings: Settings) -> list[Quantity]:
    """FORWARD and BOTH of each build."""
    quantities = []
    for name, prepare in PREPARATIONS.items():
        steps = {row: prepare(build, settings) for row, build in builds.items()}
        quantities.append(Quantity(name, 's', time_alternately(steps, settings)))
    return quantities


def peaks(builds: dict[str, Build], settings: Settings) -> list[Quantity]:
    """The peak of memory in FORWARD and in BOTH of each build."""
    quantities = []
    for name, prepare in PREPARATIONS.items():
        steps = {row: partial(prepare, build, settings) for row, build in builds.items()}
        quantities.append(Quantity(f'peak memory, {name}', 'bytes', peak_memory(steps, settings)))
    return quantities


def memory(builds: dict[str, Build], settings: Settings) -> list[Quantity]:
    """KEPT and MAPS of each build."""
    measured = {row: kept(build, settings) for row, build in builds.items()}
    return [
        Quantity(name, 'bytes', {row: [sizes[place]] for row, sizes in measured.items()})
        for place, name in enumerate((KEPT, MAPS))
    ]
