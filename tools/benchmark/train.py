"""A training step of the whole model: what each part of the plugin adds to the ones before."""

from __future__ import annotations

from functools import partial

from .memory import peak_memory
from .models import (
    CHANNELS_LAST,
    HEAD,
    KEPT_MEMORY,
    LOSS,
    NETWORKS,
    build,
    cumulative,
    training_step,
)
from .settings import Settings
from .table import ABOVE, Baseline, Quantity, Table, Wanted
from .timing import Step, time_alternately

PARTS = (HEAD, LOSS, CHANNELS_LAST, KEPT_MEMORY)
TIME = 'training step'


def prepare(parts: tuple[str, ...], settings: Settings) -> Step:
    """A training step of the model with these parts."""
    return training_step(build(settings, parts), settings)


def measure(settings: Settings) -> list[Table]:
    """One table: stock, then the parts added one after the other."""
    preparations = {
        name: partial(prepare, parts, settings) for name, parts in cumulative(PARTS).items()
    }
    steps = {name: prepared() for name, prepared in preparations.items()}
    last = f'+ {KEPT_MEMORY}'
    height, width = settings.crop
    network = NETWORKS[settings.model]
    wanted = () if network.training is None else (Wanted(TIME, last, 'stock', network.training),)
    return [
        Table(
            title=f'Training step of {network.title}, batch {settings.batch} of {height} x {width}',
            baselines=(Baseline('stock'), Baseline(ABOVE)),
            quantities=(
                Quantity(TIME, 's', time_alternately(steps, settings, (last,))),
                Quantity('peak memory', 'bytes', peak_memory(preparations, settings, (last,))),
            ),
            wanted=wanted,
        )
    ]
