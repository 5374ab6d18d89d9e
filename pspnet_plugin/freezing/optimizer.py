"""Parameter groups: one for each history of learning rates, laid out before a state is loaded.

Functions here change ``param_groups`` and schedulers in place. Between iterations ``lr`` in a group
is the schedulers' value, which is also what a checkpoint holds. During an iteration it is that
value times the factor of the freeze schedule, and ``scheduled_lr`` holds the schedulers' value. So
schedulers that compute a value from the last one never see a factor.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Iterable, Mapping

import torch
from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from torch import nn

from ..compat.optimizer_constructors import constructor_of
from ..errors import PspnetPluginError
from .schedule import Timeline, lr_factor

SCHEDULED = 'scheduled_lr'
MEMBERS = 'members'


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
    names = names_by_id(model)
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
    optim_wrappers: dict[str, OptimWrapper],
    schedulers: dict[str, list],
    model: nn.Module,
    timeline: Timeline,
) -> int:
    """Give the optimizers the groups that a timeline needs; how many parameters they lacked.

    Raises:
        LayoutError: there are several optimizers and what is to be unfrozen is in none of them.
    """
    names = names_by_id(model)
    held = {
        id(parameter)
        for optim_wrapper in optim_wrappers.values()
        for group in optim_wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    unfrozen = timeline.unfrozen()
    missing = [p for n, p in model.named_parameters() if n in unfrozen and id(p) not in held]
    if missing and len(optim_wrappers) > 1:
        raise LayoutError(
            f'None of the optimizers {", ".join(optim_wrappers)} holds {names[id(missing[0])]}, '
            'which is to be unfrozen, and nothing says which should: put it into one.'
        )
    for name, optim_wrapper in optim_wrappers.items():
        added = missing_groups(optim_wrapper, model, missing)
        lay_out(optim_wrapper, schedulers[name], added, timeline.lr_history, names)
    return len(missing)


def names_by_id(model: nn.Module) -> dict[int, str]:
    """Names of a model's parameters by their ids."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def split_groups(
    groups: list[dict], key: Callable[[torch.Tensor], Hashable]
) -> tuple[list[dict], list[int]]:
    """Split groups so that the parameters of each have one key; order is kept within a key.

    Returns the new groups and, for each, the index of the group it comes from.
    """
    split: list[dict] = []
    parents: list[int] = []
    for index, group in enumerate(groups):
        parts: dict[Hashable, list] = {}
        for parameter in group['params']:
            parts.setdefault(key(parameter), []).append(parameter)
        for parameters in parts.values() or [[]]:
            split.append({**group, 'params': parameters})
            parents.append(index)
    return split, parents


def missing_groups(
    optim_wrapper: OptimWrapper, model: nn.Module, missing: list[nn.Parameter]
) -> list[dict]:
    """Groups for parameters that the optimizer lacks, as its constructor would have made them.

    ``DefaultOptimWrapperConstructor`` with a ``paramwise_cfg`` skips what requires no gradient when
    it runs. It makes its groups again here, with every gradient required. An optimizer that was
    built by hand takes the parameters with its defaults.
    """
    constructor = constructor_of(optim_wrapper)
    if not missing or constructor is None:
        return [{'params': missing}] if missing else []
    wanted = {id(parameter) for parameter in missing}
    groups = _groups_of_everything(constructor, model)
    scale = _applied_scale(optim_wrapper.optimizer, groups)
    return [
        {**group, 'lr': group['lr'] * scale, 'params': inside}
        for group in groups
        if (inside := [p for p in group['params'] if id(p) in wanted])
    ]


def _groups_of_everything(
    constructor: DefaultOptimWrapperConstructor, model: nn.Module
) -> list[dict]:
    skipped = [p for p in model.parameters() if not p.requires_grad]
    logger = MMLogger.get_current_instance()
    was_disabled, logger.disabled = logger.disabled, True  # it has logged all of this before
    try:
        for parameter in skipped:
            parameter.requires_grad_(True)
        return constructor(model).optimizer.param_groups
    finally:
        for parameter in skipped:
            parameter.requires_grad_(False)
        logger.disabled = was_disabled


def _applied_scale(optimizer: torch.optim.Optimizer, as_configured: list[dict]) -> float:
    """The factor that ``auto_scale_lr`` has applied to the configured learning rates."""
    now = {id(p): g.get('initial_lr', g['lr']) for g in optimizer.param_groups for p in g['params']}
    shared = ((p, g['lr']) for g in as_configured for p in g['params'] if id(p) in now and g['lr'])
    return next((now[id(parameter)] / lr for parameter, lr in shared), 1.0)


def lay_out(
    optim_wrapper: OptimWrapper,
    schedulers: list,
    added: list[dict],
    key: Callable[[str], Hashable],
    names: dict[int, str],
) -> None:
    """Add groups, split all by ``key(name)``, and start the schedulers again on the result.

    ``names`` are the names of parameters by their ids. Where nothing is added or split, nothing
    changes. Must run before the first iteration and before a state is loaded.

    Raises:
        LayoutError: the optimizer does not allow it.
    """
    optimizer = optim_wrapper.optimizer

    def key_of(parameter: torch.Tensor) -> Hashable:
        return key(names.get(id(parameter), ''))

    if not added and all(len({*map(key_of, g['params'])}) < 2 for g in optimizer.param_groups):
        return
    if type(optimizer).__name__ == 'ZeroRedundancyOptimizer':
        raise LayoutError(
            'ZeroRedundancyOptimizer has distributed its parameters over the processes already, '
            'so its groups cannot change: use another optimizer, or no lr_mult, warmup and '
            'stage_lr_decay, and freeze nothing before the optimizer is built.'
        )
    _take_back_first_step(optim_wrapper, schedulers)
    split, parents = split_groups(optimizer.param_groups, key_of)
    first = {**optimizer.param_groups[0], 'params': torch.zeros(1)}
    additions = split_groups(added, key_of)[0]
    for group in additions:
        group.update(_one_cycle_bounds(first, schedulers))
        optimizer.add_param_group(group)  # fills in the optimizer's defaults
    parents += [parents[-1]] * len(additions)
    optimizer.param_groups[:] = split + additions
    for group in optimizer.param_groups:
        members = ' '.join(names.get(id(parameter), '?') for parameter in group['params'])
        group[MEMBERS] = zlib.crc32(members.encode())
    if optim_wrapper.base_param_settings is None:
        # The learning rate that is logged; mmengine sets it only where it makes several groups.
        optim_wrapper.base_param_settings = first
    _start_again(optim_wrapper, schedulers, parents)


def check_layout(state: dict, optimizer: torch.optim.Optimizer) -> None:
    """Compare the groups of a saved optimizer with those it is to be loaded into.

    Raises:
        LayoutError: they do not hold the same parameters.
    """
    saved, here = (
        [(len(group['params']), group.get(MEMBERS)) for group in groups]
        for groups in (state['param_groups'], optimizer.param_groups)
    )
    if saved != here:
        raise LayoutError(
            f"The checkpoint's optimizer has {len(saved)} groups of parameters, not the "
            f'{len(here)} of this run: what LayerFreezeHook unfreezes, or its lr_mult, warmup or '
            'stage_lr_decay, are not those of the run that wrote it. Resume with the same, or '
            'start a new run from its weights (load_from, without resume).'
        )


def _take_back_first_step(optim_wrapper: OptimWrapper, schedulers: list) -> None:
    for group in optim_wrapper.param_groups:
        for scheduler in schedulers:
            name = scheduler.param_name
            group[name] = group.get(f'initial_{name}', group[name])


def _one_cycle_bounds(group: dict, schedulers: list) -> dict:
    """The values that a one-cycle scheduler has written into each group and computes from."""
    names = [s.param_name for s in schedulers if f'max_{s.param_name}' in group]
    bounds = (f'{kind}_{name}' for name in names for kind in ('initial', 'max', 'min'))
    return {bound: group[bound] for bound in bounds}


def _start_again(optim_wrapper: OptimWrapper, schedulers: list, parents: list[int]) -> None:
    """Repeat the end of each scheduler's constructor on the groups as they are now."""
    for scheduler in schedulers:
        initial = f'initial_{scheduler.param_name}'
        for group in optim_wrapper.param_groups:
            group.setdefault(initial, group[scheduler.param_name])
        if hasattr(scheduler, 'min_values'):  # one value for each group
            rest = [scheduler.min_values[-1]]
            scheduler.min_values = [scheduler.min_values[i] for i in parents] + rest
        if hasattr(scheduler, 'base_values'):
            scheduler.base_values = [group[initial] for group in optim_wrapper.param_groups]
            scheduler.last_step = scheduler._global_step = -1
            scheduler.step()
        scheduler._last_value = [g[scheduler.param_name] for g in optim_wrapper.param_groups]
