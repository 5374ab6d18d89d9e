"""A config and a model -> the timeline of the run."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import nn

from .enforce import fixed_as_built, frozen_as_built
from .schedule import (
    Rule,
    RunLength,
    ScheduleError,
    Timeline,
    as_list,
    build_rules,
    expand_preset,
    is_number,
)
from .selection import named_alone, select, stage_patterns


def plan(
    model: nn.Module,
    length: RunLength,
    freeze: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    schedule: Sequence[dict] | dict = (),
    stage_lr_decay: float | dict[str, float] | None = None,
) -> Timeline:
    """What is frozen when, with the arguments of :class:`LayerFreezeHook`.

    Raises:
        SelectionError: a pattern matches nothing.
        ScheduleError: the schedule is malformed, or nothing at all trains at some iteration.
    """
    chosen = functools.partial(select, model)
    if isinstance(schedule, dict):
        schedule = expand_preset(schedule, functools.partial(stage_patterns, model), length)
    if not isinstance(schedule, (list, tuple)):
        raise ScheduleError(
            f'schedule={schedule!r} is neither a list of lines such as dict(at=, unfreeze=) nor a '
            'preset, dict(type=).'
        )
    first = Rule(at=0, freeze=chosen(as_list(freeze), as_list(exclude)))
    rules = build_rules(schedule, chosen, length)
    unfreezing = [p for line in schedule for p in as_list(line.get('unfreeze', ()))]
    timeline = Timeline(
        rules=(first, *rules),
        frozen_as_built=frozen_as_built(model),
        fixed=fixed_as_built(model) - named_alone(model, unfreezing),
        stage_lr_mults=stage_lr_mults(model, stage_lr_decay),
    )
    parameters = {name for name, _ in model.named_parameters()}
    for iteration in {0, *timeline.transitions()}:
        if iteration < length.max_iters and timeline.frozen(iteration).issuperset(parameters):
            raise ScheduleError(
                f'From iteration {iteration} on everything is frozen and nothing could train: '
                'leave a part of the model out of freeze, or unfreeze one by then.'
            )
    return timeline


def stage_lr_mults(
    model: nn.Module, stage_lr_decay: float | dict[str, float] | None
) -> dict[str, float]:
    """Factors on the learning rates of a backbone's stages, by the names of their parameters.

    ``decay`` for the last stage, ``decay ** 2`` for the one before, and so on down to the stem;
    what is in no stage has no entry. As mmseg's ``LearningRateDecayOptimizerConstructor`` with
    ``decay_type='stage_wise'``. A number is for the module ``backbone``.

    Raises:
        ScheduleError: a factor is not above 0 and at most 1.
        SelectionError: there is no such module, or it has no stages.
    """
    if stage_lr_decay is None:
        return {}
    decays = stage_lr_decay if isinstance(stage_lr_decay, dict) else {'backbone': stage_lr_decay}
    lr_mults = {}
    for module, decay in decays.items():
        if not is_number(decay) or not 0 < decay <= 1:
            raise ScheduleError(
                f'stage_lr_decay must be a number above 0 and at most 1, not {decay!r}.'
            )
        for power, stage in enumerate(reversed(stage_patterns(model, module)), start=1):
            lr_mults.update(dict.fromkeys(select(model, [stage]), decay**power))
    return lr_mults
