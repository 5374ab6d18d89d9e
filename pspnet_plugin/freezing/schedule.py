"""Iteration -> what is frozen, and the factors on the learning rates of what trains.

The last line of a schedule that names a tensor decides about it. Lines apply in the order of their
``at``, with the same ``at`` in the order of the config; within a line ``freeze`` comes after
``unfreeze``. What no line names stays as the model was built.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import PspnetPluginError
from ..utils.text import did_you_mean

_KEYS = ('at', 'unfreeze', 'freeze', 'exclude', 'lr_mult', 'warmup')


class ScheduleError(PspnetPluginError):
    """A schedule, or another argument of the hook, says something that cannot be done."""


@dataclass(frozen=True)
class RunLength:
    """How long a run is, and whether its schedule counts epochs (``by_epoch``) or iterations."""

    max_iters: int
    epoch_length: int
    by_epoch: bool = False

    def iterations(self, moment: int | float) -> int:
        """The iteration that a schedule means by an integer (a count) or a float (a fraction).

        A count is one of epochs with ``by_epoch``. A fraction is rounded to the nearest iteration,
        or epoch.

        Raises:
            ScheduleError: no number, a negative one, or a fraction above 1.
        """
        unit, units = (self.epoch_length, 'epochs') if self.by_epoch else (1, 'iterations')
        if not is_number(moment) or moment < 0:
            raise ScheduleError(
                f'{moment!r} is no moment of a run: give an integer, which counts {units}, or a '
                'fraction of the run such as 0.25.'
            )
        if isinstance(moment, int):
            return moment * unit
        if moment > 1:
            raise ScheduleError(
                f'{moment!r} is a float and so a fraction of the run, which ends at 1.0: for '
                f'{units}, write an integer such as {round(moment)}.'
            )
        return round(moment * self.max_iters / unit) * unit


@dataclass(frozen=True)
class Rule:
    """One line of a schedule: from iteration ``at`` on, ``unfreeze`` trains and ``freeze`` not.

    ``lr_mult`` is reached in equal steps over the first ``warmup`` iterations.
    """

    at: int
    unfreeze: frozenset[str] = frozenset()
    freeze: frozenset[str] = frozenset()
    lr_mult: float = 1.0
    warmup: int = 0


@dataclass(frozen=True)
class Timeline:
    """The state of every parameter and buffer at every iteration.

    ``rules`` are in order; ``frozen_as_built`` names what the model froze by itself; ``fixed``
    names constants of the architecture, which no rule unfreezes; ``stage_lr_mults`` are factors on
    the learning rate that hold for the whole run (layer-wise decay).
    """

    rules: tuple[Rule, ...] = ()
    frozen_as_built: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    stage_lr_mults: Mapping[str, float] = field(default_factory=dict)

    def frozen(self, iteration: int) -> frozenset[str]:
        """Names of what is frozen at ``iteration`` (0 is the first)."""
        return self._by_rules(self.frozen_as_built, iteration) | self.fixed

    def only_fixed(self, iteration: int) -> frozenset[str]:
        """Names of what would train at ``iteration`` if it were no constant."""
        return self.fixed - self._by_rules(frozenset(), iteration)

    def _by_rules(self, frozen: frozenset[str], iteration: int) -> frozenset[str]:
        for rule in self.rules:
            if rule.at <= iteration:
                frozen = (frozen - rule.unfreeze) | rule.freeze
        return frozen

    def lr_history(self, name: str) -> tuple:
        """All factors on the learning rate of a parameter over the run, for :func:`lr_factor`.

        The factor of its stage, then ``(at, lr_mult, warmup)`` of each rule that unfreezes it;
        empty where the factor is always 1. Parameters with equal histories have equal factors.
        """
        of_stage = self.stage_lr_mults.get(name, 1.0)
        steps = [(r.at, r.lr_mult, r.warmup) for r in self.rules if name in r.unfreeze]
        if all(lr_mult == 1 and warmup == 0 for _, lr_mult, warmup in steps):
            steps = []
        return (of_stage, *steps) if steps or of_stage != 1 else ()

    def named(self) -> frozenset[str]:
        """Everything that some rule freezes or unfreezes."""
        return frozenset().union(*(rule.unfreeze | rule.freeze for rule in self.rules))

    def unfrozen(self) -> frozenset[str]:
        """Everything that some rule unfreezes."""
        return frozenset().union(*(rule.unfreeze for rule in self.rules)) - self.fixed

    def transitions(self) -> list[int]:
        """The iterations at which rules begin, ascending."""
        return sorted({rule.at for rule in self.rules})


def lr_factor(history: tuple, iteration: int) -> float:
    """Factor on the scheduled learning rate at ``iteration``, by :meth:`Timeline.lr_history`."""
    of_stage, *steps = history or (1.0,)
    factor = 1.0
    for at, lr_mult, warmup in steps:
        if at <= iteration:
            factor = lr_mult * min(1.0, (iteration - at + 1) / (warmup + 1))
    return factor * of_stage


def build_rules(
    lines: Sequence[dict],
    select: Callable[[Sequence[str], Sequence[str]], frozenset[str]],
    length: RunLength,
) -> tuple[Rule, ...]:
    """Rules in order, from a schedule's lines ``dict(at=, unfreeze=/freeze=, …)``.

    ``select(patterns, exclude)`` gives the names that patterns cover.

    Raises:
        ScheduleError: a line is malformed.
        SelectionError: a pattern matches nothing.
    """
    rules = []
    for line in lines:
        _check(line)
        exclude = as_list(line.get('exclude', ()))
        rules.append(
            Rule(
                at=length.iterations(line['at']),
                unfreeze=select(as_list(line.get('unfreeze', ())), exclude),
                freeze=select(as_list(line.get('freeze', ())), exclude),
                lr_mult=line.get('lr_mult', 1.0),
                warmup=length.iterations(line.get('warmup', 0)),
            )
        )
    return tuple(sorted(rules, key=lambda rule: rule.at))


# --- arguments ----------------------------------------------------------------------------------


def as_list(patterns: str | Sequence[str]) -> list[str]:
    """One pattern or several, as a list.

    Raises:
        ScheduleError: something else than strings.
    """
    several = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(several, (list, tuple)) or not all(isinstance(one, str) for one in several):
        raise ScheduleError(f'{patterns!r} is neither a pattern nor a list of patterns.')
    return list(several)


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite number, which True and False are not."""
    return type(value) is not bool and isinstance(value, (int, float)) and math.isfinite(value)


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise a ScheduleError for the first name in ``given`` that ``owner`` does not take."""
    for name in given:
        if name not in known:
            raise ScheduleError(
                f'{owner} takes no {name!r}.{did_you_mean(name, known)} '
                f'Its arguments: {", ".join(known)}.'
            )


def _check(line: dict) -> None:
    if not isinstance(line, dict):
        raise ScheduleError(f'A line of a schedule is a dict such as dict(at=, unfreeze=): {line}.')
    refuse_unknown(f'The line {line} of the schedule', line, _KEYS)
    if 'at' not in line or not (line.get('unfreeze') or line.get('freeze')):
        raise ScheduleError(f'A line of a schedule needs at= and unfreeze= or freeze=: {line}.')
    if not line.get('unfreeze') and ('lr_mult' in line or 'warmup' in line):
        raise ScheduleError(f'lr_mult and warmup belong to unfreeze, which is missing: {line}.')
    lr_mult = line.get('lr_mult', 1.0)
    if not is_number(lr_mult) or not lr_mult > 0:
        raise ScheduleError(f'lr_mult must be a number above 0 (to stop training, freeze): {line}.')


# --- presets ------------------------------------------------------------------------------------


def expand_preset(
    preset: dict, stages_of: Callable[[str], list[str]], length: RunLength
) -> list[dict]:
    """The lines of a ready schedule ``dict(type=NAME, …)``.

    ``stages_of(module)`` gives patterns for the parts of a backbone, from the stem to the last.

    Raises:
        ScheduleError: the name or an argument is unknown.
    """
    arguments = dict(preset)
    name = arguments.pop('type', None)
    if name not in _PRESETS:
        raise ScheduleError(f'The schedule {name!r} is unknown: there are {", ".join(_PRESETS)}.')
    build = _PRESETS[name]
    # The first two parameters come from here.
    refuse_unknown(name, arguments, list(inspect.signature(build).parameters)[2:])
    return build(stages_of, length, **arguments)


def gradual_unfreeze(
    stages_of: Callable[[str], list[str]],
    length: RunLength,
    module: str = 'backbone',
    begin: int | float = 0.1,
    end: int | float = 0.7,
    lr_mult: float = 1.0,
    warmup: int | float = 0,
) -> list[dict]:
    """Unfreeze a backbone in equal steps, the last stage at ``begin`` and the stem at ``end``.

    Source: J. Howard and S. Ruder, "Universal Language Model Fine-tuning for Text Classification".
    """
    parts = stages_of(module)[::-1]
    unit = length.epoch_length if length.by_epoch else 1
    first, last = (length.iterations(moment) // unit for moment in (begin, end))
    if first > last:
        raise ScheduleError(f'gradual_unfreeze begins at {begin}, which is after its end, {end}.')
    lines = [{'at': 0, 'freeze': [module]}]
    for step, part in enumerate(parts):
        at = round(first + (last - first) * step / max(1, len(parts) - 1))
        lines.append({'at': at, 'unfreeze': [part], 'lr_mult': lr_mult, 'warmup': warmup})
    # What follows the last stage (a final norm) belongs to no stage and comes with it.
    lines[1].update(unfreeze=[module], exclude=parts[1:])
    return lines


def probe_then_finetune(
    stages_of: Callable[[str], list[str]],
    length: RunLength,
    module: str = 'backbone',
    at: int | float = 0.5,
    lr_mult: float = 0.1,
    warmup: int | float = 0,
) -> list[dict]:
    """Train everything but a module, which is frozen, and from ``at`` on that too.

    Source: A. Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution".
    """
    return [
        {'at': 0, 'freeze': [module]},
        {'at': at, 'unfreeze': [module], 'lr_mult': lr_mult, 'warmup': warmup},
    ]


_PRESETS: dict[str, Callable[..., list[dict]]] = {
    'gradual_unfreeze': gradual_unfreeze,
    'probe_then_finetune': probe_then_finetune,
}
