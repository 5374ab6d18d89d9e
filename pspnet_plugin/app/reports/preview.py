"""A config -> which part trains when and with which learning rate, without training."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from rich import box
from rich.table import Table
from torch import nn

from ...errors import PspnetPluginError
from ...freezing.enforce import first_names
from ...freezing.hook import LayerFreezeHook, plan_run
from ...freezing.optimizer import fit_groups, lr_histories, restore_scheduled_lr, scale_lr
from ...freezing.schedule import RunLength, Timeline
from ...freezing.selection import SelectionError, select, stage_patterns
from ...utils.config_tree import kind_of
from ...utils.text import near_misses, table_as_text

# Iterations that a preview looks at besides those around transitions.
COLUMNS = 400


class PreviewError(PspnetPluginError):
    """A config does not say what a preview needs."""


@dataclass(frozen=True)
class Preview:
    """Learning rates over a run.

    ``rates`` is ``(parts, iterations)``: the highest learning rate in a part, NaN where all of it
    is frozen. ``trainable`` is ``(parts, iterations)``: the share of a part that trains. ``starts``
    are the iterations at which something changes, ``end`` is the length of the run.
    """

    parts: list[str]
    iterations: list[int]
    rates: np.ndarray
    trainable: np.ndarray
    starts: list[int]
    end: int


def preview(config: Config) -> Preview:
    """What :class:`LayerFreezeHook` will do in a run of ``config``, by the code that will do it.

    Raises:
        PreviewError: the config has no LayerFreezeHook or several, several optimizers, or lacks
            what a run of training needs.
        SelectionError, ScheduleError: the hook's arguments are wrong.
    """
    names = _names_of_hooks(config)
    count = names.count('LayerFreezeHook')
    if count != 1:
        misspelt = near_misses('LayerFreezeHook', names) if not count else []
        hint = f' Is it what you mean by {misspelt[0]}?' if misspelt else ''
        raise PreviewError(
            f'The config has {count} LayerFreezeHook in custom_hooks, not one.{hint}'
        )
    for key in ('model', 'train_cfg', 'optim_wrapper'):
        if not config.get(key):
            raise PreviewError(f'The config has no {key}, so it describes no run of training.')
    found = config.custom_hooks[names.index('LayerFreezeHook')]
    hook = LayerFreezeHook(**{k: v for k, v in found.items() if k not in ('type', 'priority')})
    init_default_scope(config.get('default_scope', 'mmengine'))
    length = _run_length(config, hook.by_epoch)
    model = MODELS.build(config.model)
    timeline = plan_run(model, length, hook.config, MMLogger.get_current_instance())
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    if isinstance(optim_wrapper, OptimWrapperDict):
        raise PreviewError('The config has several optimizers, and a preview shows one.')
    fit_groups({'': optim_wrapper}, None, model, timeline)
    schedulers = _build_schedulers(config, optim_wrapper, length)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Detected call of `scheduler.step')
        return _simulate(model, timeline, optim_wrapper.optimizer.param_groups, schedulers, length)


def freezes_layers(config: Config) -> bool:
    """Whether a LayerFreezeHook is among the config's hooks."""
    return 'LayerFreezeHook' in _names_of_hooks(config)


def _names_of_hooks(config: Config) -> list[str]:
    """The names of the classes in ``custom_hooks``, without scopes such as ``mmengine.``."""
    hooks = config.get('custom_hooks') or []
    if not isinstance(hooks, (list, tuple)) or not all(isinstance(hook, dict) for hook in hooks):
        raise PreviewError(f'custom_hooks is no list of dict(type=…, …): {hooks!r}')
    return [kind_of({'type': '', **hook}) for hook in hooks]


def _simulate(
    model: nn.Module, timeline: Timeline, groups: list[dict], schedulers: list, length: RunLength
) -> Preview:
    parts, names = parts_of(model), first_names(model)
    starts = [t for t in timeline.transitions() if t < length.max_iters]
    step = max(1, length.max_iters // COLUMNS)
    ends = [t - 1 for t in starts[1:]]
    wanted = {*starts, *ends, *range(0, length.max_iters, step), length.max_iters - 1}
    histories = lr_histories(groups, model, timeline)
    rates, trainable = [], []
    for iteration in range(length.max_iters):
        if iteration in wanted:
            scale_lr(groups, histories, iteration)
            lrs = {names.get(id(p), ''): g['lr'] for g in groups for p in g['params']}
            restore_scheduled_lr(groups)
            frozen = timeline.frozen(iteration)
            for sizes in parts.values():
                training = [name for name in sizes if name in lrs and name not in frozen]
                rates.append(max((lrs[name] for name in training), default=np.nan))
                trainable.append(sum(sizes[name] for name in training) / sum(sizes.values()))
        epoch_ends = (iteration + 1) % length.epoch_length == 0
        for scheduler in schedulers:
            if epoch_ends or not scheduler.by_epoch:
                scheduler.step()
    shape = len(wanted), len(parts)
    return Preview(
        parts=list(parts),
        iterations=sorted(wanted),
        rates=np.reshape(rates, shape).T,
        trainable=np.reshape(trainable, shape).T,
        starts=starts,
        end=length.max_iters,
    )


def parts_of(model: nn.Module) -> dict[str, dict[str, int]]:
    """The model's top modules, backbones by stem and stages -> the sizes of their parameters."""
    parts: dict[str, dict[str, int]] = {}
    for child, module in model.named_children():
        try:
            patterns = stage_patterns(model, child)
        except SelectionError:
            patterns = []
        titles = {
            name: pattern.replace('.stages[:0]', ' stem')
            for pattern in patterns
            for name in select(model, [pattern])
        }
        for name, parameter in module.named_parameters(prefix=child):
            parts.setdefault(titles.get(name, child), {})[name] = parameter.numel()
    return parts


def _run_length(config: Config, by_epoch: bool) -> RunLength:
    train = config.train_cfg
    if not train.get('max_iters') and not train.get('max_epochs'):
        raise PreviewError(f'train_cfg does not say how long the run is: {dict(train)}')
    if train.get('max_iters') and not by_epoch:
        return RunLength(train.max_iters, 1, by_epoch)
    try:
        epoch_length = len(Runner.build_dataloader(config.train_dataloader))
    except Exception as error:
        raise PreviewError(
            f'Epochs cannot be counted, because the training data cannot be read: {error}'
        ) from error
    max_iters = train.get('max_iters') or train.max_epochs * epoch_length
    return RunLength(max_iters, epoch_length, by_epoch)


def _build_schedulers(config: Config, optim_wrapper: OptimWrapper, length: RunLength) -> list:
    schedulers = copy.deepcopy(config.get('param_scheduler')) or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else schedulers
    for scheduler in schedulers:
        unit = length.epoch_length if scheduler.get('by_epoch', True) else 1
        scheduler.setdefault('end', length.max_iters // unit)
    defaults = {'optimizer': optim_wrapper, 'epoch_length': length.epoch_length}
    return [PARAM_SCHEDULERS.build(s, default_args=defaults) for s in schedulers]


def as_table(shown: Preview) -> str:
    """The preview as text: a column for each stretch between transitions."""
    table = Table('part', box=box.ASCII)
    at = {iteration: number for number, iteration in enumerate(shown.iterations)}
    stretches = list(zip(shown.starts, [*shown.starts[1:], shown.end]))
    for start, end in stretches:
        table.add_column(f'{start} to {end - 1}')
    for part, rates, trainable in zip(shown.parts, shown.rates, shown.trainable):
        cells = []
        for start, end in stretches:
            first, last, share = rates[at[start]], rates[at[end - 1]], trainable[at[start]]
            text = f'{first:.3g}' if first == last else f'{first:.3g} to {last:.3g}'
            of_it = f' ({share:.0%} of it)' if share < 1 else ''
            cells.append(text + of_it if share else 'frozen')
        table.add_row(part, *cells)
    return table_as_text(table, width=1000)


def draw(shown: Preview, path: str) -> None:
    """The preview as an image: parts by iterations, coloured by learning rate; grey is frozen."""
    from matplotlib.figure import Figure

    from .figures import save

    figure = Figure(figsize=(9, 1.2 + 0.32 * len(shown.parts)), layout='constrained')
    axes = figure.subplots()
    draw_timeline(axes, shown)
    axes.set_xlabel('iteration (grey: frozen)')
    save(figure, Path(path))


def draw_timeline(axes: Any, shown: Preview) -> None:
    """The preview on matplotlib ``axes``, with a colour bar beside them."""
    from matplotlib.colors import LogNorm

    axes.set_facecolor('0.85')
    edges_x = [*shown.iterations, shown.end]
    positive = np.where(shown.rates > 0, shown.rates, np.nan)
    mesh = axes.pcolormesh(
        edges_x, np.arange(len(shown.parts) + 1), positive, norm=LogNorm(), cmap='viridis'
    )
    for start in shown.starts[1:]:
        axes.axvline(start, color='white', linewidth=1)
    axes.set_yticks(np.arange(len(shown.parts)) + 0.5, shown.parts)
    axes.invert_yaxis()
    axes.figure.colorbar(mesh, ax=axes, label='learning rate')
