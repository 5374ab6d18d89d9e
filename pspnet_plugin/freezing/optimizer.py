"""Parameter groups: one for each history of learning rates, laid out before schedulers are built.

Functions here change ``param_groups`` in place. Between iterations ``lr`` in a group is the
schedulers' value, which is also what a checkpoint holds. During an iteration it is that value times
the factor of the freeze schedule, and ``scheduled_lr`` holds the schedulers' value. So schedulers
that compute a value from the last one never see a factor.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from torch import nn
from torch.utils._pytree import tree_flatten

from ..errors import PspnetPluginError
from .enforce import first_names
from .schedule import Timeline, lr_factor

SCHEDULED = 'scheduled_lr'
MEMBERS = 'members'
FACTORS = 'lr_factors'


class LayoutError(PspnetPluginError):
    """A saved optimizer's groups are not the ones of this run."""


def by_name(optim_wrapper: OptimWrapper) -> dict[str, OptimWrapper]:
    """A run's optimizer wrappers by their names; a single one has the name ``''``."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        return dict(optim_wrapper.items())
    return {'': optim_wrapper}


# --- factors ------------------------------------------------------------------------------------


def lr_histories(groups: list[dict], model: nn.Module, timeline: Timeline) -> dict[int, tuple]:
    """Index of each group that has a factor other than 1 at some iteration -> its history.

    The parameters of a group have one history, so the first stands for all.
    """
    names = first_names(model)
    first = {i: names.get(id(g['params'][0]), '') for i, g in enumerate(groups) if g['params']}
    histories = {index: timeline.lr_history(name) for index, name in first.items()}
    return {index: history for index, history in histories.items() if history}


def scale_lr(groups: list[dict], histories: Mapping[int, tuple], iteration: int) -> None:
    """Multiply the scheduled learning rates of groups by the factors of their histories."""
    for index, history in histories.items():
        group = groups[index]
        scheduled = group.setdefault(SCHEDULED, group['lr'])
        group['lr'] = scheduled * lr_factor(history, iteration)


def restore_scheduled_lr(groups: Iterable[dict]) -> None:
    """Put back the schedulers' values, from which they compute the next ones."""
    for group in groups:
        group['lr'] = group.pop(SCHEDULED, group['lr'])


def leave_steps_uncompiled(optim_wrappers: Iterable[OptimWrapper]) -> None:
    """Exclude ``optimizer.step`` from ``torch.compile``; mmengine compiles it with the model.

    The compiler treats a learning rate as a constant, so it compiles again whenever one changes,
    and fails (SpeculationLogDivergence) where momentum is created in the same step.
    """
    for optim_wrapper in optim_wrappers:
        optimizer = optim_wrapper.optimizer
        optimizer.step = torch._dynamo.disable(optimizer.step)


# --- layout -------------------------------------------------------------------------------------


def fit_groups(
    optim_wrappers: dict[str, OptimWrapper], schedulers: Any, model: nn.Module, timeline: Timeline
) -> int:
    """Give the optimizers the groups that a timeline needs; how many parameters they lacked.

    Called when learning rates are scaled and before ``schedulers`` are built from their configs.

    Raises:
        LayoutError: there are several optimizers and what is to be unfrozen is in none of them, or
            groups would change that cannot.
    """
    names, unfrozen = first_names(model), timeline.unfrozen()
    groups = [group for wrapper in optim_wrappers.values() for group in groups_of(wrapper)]
    held = {id(parameter) for group in groups for parameter in group['params']}
    # Constructors leave out nothing that is to be unfrozen, but an optimizer may be built by hand.
    missing = [p for n, p in model.named_parameters() if n in unfrozen and id(p) not in held]
    if missing and len(optim_wrappers) > 1:
        raise LayoutError(
            f'None of the optimizers {", ".join(optim_wrappers)} holds {names[id(missing[0])]}, '
            'which is to be unfrozen, and nothing says which should: put it into one.'
        )

    def history(parameter: torch.Tensor) -> tuple:
        return timeline.lr_history(names.get(id(parameter), ''))

    for wrapper in optim_wrappers.values():
        added = [{**wrapper.optimizer.defaults, 'params': missing}] if missing else []
        layout = split_groups([*groups_of(wrapper), *added], history)
        if len(layout) > len(groups_of(wrapper)):
            apply_layout(wrapper, layout, schedulers)
        for group in groups_of(wrapper):
            members = ' '.join(names.get(id(parameter), '?') for parameter in group['params'])
            group[MEMBERS] = zlib.crc32(members.encode())
            group[FACTORS] = _factors(history(group['params'][0]) if group['params'] else ())
    return len(missing)


def groups_of(optim_wrapper: OptimWrapper) -> list[dict]:
    """The groups of an optimizer, without those that mmengine's wrapper adds for the log."""
    return optim_wrapper.optimizer.param_groups


def split_groups(groups: list[dict], key: Callable[[torch.Tensor], Hashable]) -> list[dict]:
    """Groups split so that the parameters of each have one key; order is kept within a key."""
    split = []
    for group in groups:
        parts: dict[Hashable, list] = {}
        for parameter in group['params']:
            parts.setdefault(key(parameter), []).append(parameter)
        split += [{**group, 'params': parameters} for parameters in parts.values() or [[]]]
    return split


def apply_layout(optim_wrapper: OptimWrapper, layout: list[dict], schedulers: Any) -> None:
    """Give an optimizer other groups.

    Raises:
        LayoutError: it, or a scheduler that is built already, does not allow it.
    """
    without = 'no lr_mult, warmup and stage_lr_decay, and freeze nothing before it is built.'
    if type(optim_wrapper.optimizer).__name__ == 'ZeroRedundancyOptimizer':
        raise LayoutError(
            'ZeroRedundancyOptimizer has distributed its parameters over the processes already, '
            f'so its groups cannot change: use another optimizer, or {without}'
        )
    if any(isinstance(leaf, _ParamScheduler) for leaf in tree_flatten(schedulers)[0]):
        raise LayoutError(
            'A scheduler of the optimizer is built already, so the groups that it knows cannot '
            f'change: give its config, dict(type=, ...), or {without}'
        )
    if optim_wrapper.base_param_settings is None:
        # The learning rate that is logged; mmengine sets it only where it makes several groups.
        optim_wrapper.base_param_settings = {**layout[0], 'params': torch.zeros(1)}
    optim_wrapper.optimizer.param_groups[:] = layout


def check_layout(state: dict, optimizer: torch.optim.Optimizer) -> None:
    """Compare the groups of a saved optimizer with those it is to be loaded into.

    Raises:
        LayoutError: they do not hold the same parameters, or had other factors on their learning
            rates.
    """
    saved, here = state['param_groups'], optimizer.param_groups
    told = None
    if len(saved) != len(here):
        told = (
            f"The checkpoint's optimizer has {len(saved)} groups of parameters, not the "
            f'{len(here)} of this run'
        )
    elif not all(map(_same_members, saved, here)):
        told = "The checkpoint's optimizer has other parameters in its groups than this run"
    if told is not None:
        raise LayoutError(
            f'{told}: what LayerFreezeHook unfreezes, or its lr_mult, warmup or stage_lr_decay, '
            'are not those of the run that wrote it. Resume with the same, or start a new run from '
            'its weights (load_from, without resume).'
        )
    for before, now in zip(saved, here):
        if before.get(FACTORS, ()) != now.get(FACTORS, ()):
            raise LayoutError(
                'The checkpoint is of a run with other factors on its learning rates: '
                f'{_told(before)}, where this run has {_told(now)}. Resume with the same lr_mult, '
                'warmup and stage_lr_decay, or start a new run from its weights (load_from, '
                'without resume).'
            )


def _factors(history: tuple) -> tuple:
    """What must be the same when a run is resumed: all of a history but when its rules begin."""
    if not history:
        return ()
    of_stage, *steps = history
    return (of_stage, *((lr_mult, warmup) for _, lr_mult, warmup in steps))


def _told(group: dict) -> str:
    """The factors of a group in words."""
    of_stage, *steps = group.get(FACTORS) or (1.0,)
    told = [f'lr_mult {lr_mult:.4g} after a warmup of {warmup}' for lr_mult, warmup in steps]
    return ', '.join([f'stage factor {of_stage:.4g}', *told])


def _same_members(saved: dict, here: dict) -> bool:
    """Whether two groups hold the same; one of a run without LayerFreezeHook tells the number."""
    known = saved.get(MEMBERS, here[MEMBERS]) == here[MEMBERS]
    return known and len(saved['params']) == len(here['params'])
