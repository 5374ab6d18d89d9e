"""A training step of the whole model: what each part of the plugin adds to the ones before."""

from __future__ import annotations

from functools import partial

from .measuring import Step, peak_memory, time_alternately
from .models import CHANNELS_LAST, HEAD, KEPT_MEMORY, LOSS, build, training_step
from .settings import Settings
from .table import ABOVE, Beside, Quantity, Table, Wanted

PARTS = (HEAD, LOSS, CHANNELS_LAST, KEPT_MEMORY)
TIME = 'training step'


def variants(parts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """``stock``, then a row for each part with all parts before it."""
    added = {f'+ {part}': parts[: place + 1] for place, part in enumerate(parts)}
    return {'stock': (), **added}


def prepare(parts: tuple[str, ...], settings: Settings) -> Step:
    """A training step of the model with these parts."""
    return training_step(build(settings, parts), settings)


def measure(settings: Settings) -> list[Table]:
    """Stock, and the parts one after the other."""
    rows = variants(PARTS)
    preparations = {name: partial(prepare, parts, settings) for name, parts in rows.items()}
    steps = {name: prepared() for name, prepared in preparations.items()}
    last = f'+ {KEPT_MEMORY}'
    height, width = settings.crop
    return [
        Table(
            title=f'Training step of PSPNet-R50-d8, batch {settings.batch} of {height} x {width}',
            beside=(Beside('stock'), Beside(ABOVE)),
            quantities=(
                Quantity(TIME, 's', time_alternately(steps, settings, (last,))),
                Quantity('peak memory', 'bytes', peak_memory(preparations, settings, (last,))),
            ),
            wanted=(Wanted(TIME, last, 'stock', low=1.45),),
        )
    ]
