"""The table that is logged at each transition: module, parameters, state, learning rate."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from rich import box
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from ..text import table_as_text

_DEEPEST = 3


def describe(model: nn.Module, optimizers: Iterable[Optimizer], iteration: int) -> str:
    """What trains from ``iteration`` on, by how the model and its optimizers are set now.

    A part of the model is split only where it is neither all frozen nor trained at one rate.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    lr_of = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    lrs = {name: lr_of.get(id(parameter)) for name, parameter in model.named_parameters()}
    # ASCII, because a log may be read anywhere.
    table = Table('module', 'parameters', 'state', 'learning rate', box=box.ASCII)
    for part, names in _parts(list(sizes), trains, lrs):
        total = sum(sizes[name] for name in names)
        training = [name for name in names if name in trains]
        state = 'trainable' if len(training) == len(names) else 'frozen'
        if 0 < len(training) < len(names):
            state = f'{sum(sizes[name] for name in training):,} trainable'
        rates = sorted({lr for lr in map(lrs.get, training) if lr is not None})
        lowest_and_highest = dict.fromkeys([*rates[:1], *rates[-1:]])
        shown = ' to '.join(f'{lr:.4g}' for lr in lowest_and_highest)
        table.add_row(part, f'{total:,}', state, shown)
    training_size = sum(sizes[name] for name in trains)
    return (
        f'From iteration {iteration} on, {training_size:,} parameters train and '
        f'{sum(sizes.values()) - training_size:,} are frozen:\n{table_as_text(table)}'
    )


def _parts(
    names: list[str],
    trains: Collection[str],
    lrs: Mapping[str, float | None],
    prefix: str = '',
    depth: int = 1,
) -> Iterator[tuple[str, list[str]]]:
    """Pairs of a part's name and the names of its parameters, in the order of the model."""
    parts: dict[str, list[str]] = {}
    for name in names:
        head = name[len(prefix) :].split('.')[0]
        parts.setdefault(prefix + head, []).append(name)
    for part, inside in parts.items():
        kinds = {lrs[name] if name in trains else 'frozen' for name in inside}
        if len(kinds) == 1 or depth == _DEEPEST:
            yield part, inside
        else:
            yield from _parts(inside, trains, lrs, f'{part}.', depth + 1)
