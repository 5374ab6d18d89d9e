"""A training step with frozen layers, compared with full training and mmseg's frozen_stages."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from mmseg.models.segmentors import EncoderDecoder

from pspnet_plugin.freezing.enforce import hold_statistics, set_trainable
from pspnet_plugin.freezing.plan import plan
from pspnet_plugin.freezing.schedule import RunLength

from .memory import kept_for_backward, peak_memory, state_of
from .models import HEAD, LOSS, build, training_forward, training_step
from .settings import Settings
from .table import Baseline, Quantity, Table, Wanted
from .timing import Step, time_alternately


class Frozen(NamedTuple):
    """What is frozen: by patterns of LayerFreezeHook, or by ``frozen_stages`` of mmseg."""

    patterns: tuple[str, ...] = ()
    stages: int = -1


FULL, BACKBONE = 'nothing frozen', 'backbone'
STOCK, OURS = 'frozen_stages=3', 'backbone.stages[:3]'
ROWS = {
    FULL: Frozen(),
    BACKBONE: Frozen(patterns=(BACKBONE,)),
    STOCK: Frozen(stages=3),
    OURS: Frozen(patterns=(OURS,)),
}
TIME, MEMORY, KEPT = 'training step', 'peak memory', 'kept for backward'
WANTED = (
    Wanted(TIME, BACKBONE, FULL, low=1.8),
    Wanted(KEPT, BACKBONE, FULL, high=0.3),
    Wanted(TIME, OURS, STOCK, low=0.9, high=1.1),
    Wanted(MEMORY, OURS, STOCK, low=0.95, high=1.05),
    Wanted(KEPT, OURS, STOCK, low=0.99, high=1.01),
)


def build_frozen(frozen: Frozen, settings: Settings) -> EncoderDecoder:
    """The plugin's model with the layers frozen as in a training run."""
    model = build(settings, (HEAD, LOSS), frozen.stages).train()
    if frozen.patterns:
        timeline = plan(model, RunLength(1, 1, False), freeze=frozen.patterns)
        set_trainable(model, timeline.frozen(0), timeline.named())
        hold_statistics(model, timeline.frozen(0))
    return model


def prepare(frozen: Frozen, settings: Settings) -> Step:
    """A training step of the model with these layers frozen."""
    return training_step(build_frozen(frozen, settings), settings)


def kept(frozen: Frozen, settings: Settings) -> int:
    """Bytes that autograd keeps for the backward pass, parameters and buffers excepted."""
    model = build_frozen(frozen, settings)
    return kept_for_backward(training_forward(model, settings), state_of(model))


def measure(settings: Settings) -> list[Table]:
    """One table: nothing frozen, the backbone, and the stem with three stages in both ways."""
    preparations = {name: partial(prepare, frozen, settings) for name, frozen in ROWS.items()}
    steps = {name: prepared() for name, prepared in preparations.items()}
    memory = {name: [kept(frozen, settings)] for name, frozen in ROWS.items()}
    height, width = settings.crop
    return [
        Table(
            title=(
                f'Training step of PSPNet-R50-d8 with frozen layers, batch {settings.batch} of '
                f'{height} x {width}'
            ),
            baselines=(Baseline(FULL), Baseline(STOCK, as_speed=False)),
            quantities=(
                Quantity(TIME, 's', time_alternately(steps, settings)),
                Quantity(MEMORY, 'bytes', peak_memory(preparations, settings)),
                Quantity(KEPT, 'bytes', memory),
            ),
            wanted=WANTED,
        )
    ]
