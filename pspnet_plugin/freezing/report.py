"""The table that is logged at each transition: module, parameters, state, learning rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from rich import box
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from ..utils.text import table_as_text

_DEEPEST = 3
_FROZEN, _FIXED = 'frozen', 'fixed as built'


def describe(
    model: nn.Module, optimizers: Iterable[Optimizer], iteration: int, fixed: Collection[str] = ()
) -> str:
    """What trains from ``iteration`` on, by how the model and its optimizers are set now.

    ``fixed`` are the names of constants that would train at this iteration if they were none. A
    part of the model is split only where it is neither all frozen nor trained at one rate.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    lr_of = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    states: dict[str, object] = {
        name: lr_of.get(id(p)) if p.requires_grad else _FIXED if name in fixed else _FROZEN
        for name, p in model.named_parameters()
    }
    # ASCII, because a log may be read anywhere.
    table = Table('module', 'parameters', 'state', 'learning rate', box=box.ASCII)
    for part, names in _parts(states):
        lrs = {states[name] for name in names}
        rates = sorted(lr for lr in lrs if isinstance(lr, (int, float)))
        lowest_and_highest = dict.fromkeys([*rates[:1], *rates[-1:]])
        lr = ' to '.join(f'{rate:.4g}' for rate in lowest_and_highest)
        total = sum(sizes[name] for name in names)
        table.add_row(part, f'{total:,}', _state(names, states, sizes), lr)
    still = sum(size for name, size in sizes.items() if states[name] in (_FROZEN, _FIXED))
    return (
        f'From iteration {iteration} on, {sum(sizes.values()) - still:,} parameters train and '
        f'{still:,} are frozen:\n{table_as_text(table)}'
    )


def _state(names: list[str], states: Mapping[str, object], sizes: Mapping[str, int]) -> str:
    """``trainable``, ``frozen``, ``fixed as built``, or how many of the parameters are what."""
    counts: Counter[str] = Counter()
    for name in names:
        state = states[name] if states[name] in (_FROZEN, _FIXED) else 'trainable'
        counts[str(state)] += sizes[name]
    if len(counts) == 1:
        return next(iter(counts))
    return ', '.join(f'{counts[s]:,} {s}' for s in ('trainable', _FIXED) if s in counts)


def _parts(states: Mapping[str, object], depth: int = 1) -> Iterator[tuple[str, list[str]]]:
    """Pairs of a part's name and the names of its parameters, in the order of the model."""
    parts: dict[str, dict[str, object]] = {}
    for name, state in states.items():
        parts.setdefault('.'.join(name.split('.')[:depth]), {})[name] = state
    for part, inside in parts.items():
        if len({*inside.values()}) == 1 or depth == _DEEPEST:
            yield part, list(inside)
        else:
            yield from _parts(inside, depth + 1)
