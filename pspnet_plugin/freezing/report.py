"""The table that is logged at each transition: module, parameters, state, learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rich import box
from rich.table import Table
from torch import nn
from torch.optim import Optimizer

from ..text import table_as_text

_DEEPEST = 3
_FROZEN = 'frozen'


def describe(model: nn.Module, optimizers: Iterable[Optimizer], iteration: int) -> str:
    """What trains from ``iteration`` on, by how the model and its optimizers are set now.

    A part of the model is split only where it is neither all frozen nor trained at one rate.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    lr_of = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    parameters = dict(model.named_parameters())
    states = {n: lr_of.get(id(p)) if p.requires_grad else _FROZEN for n, p in parameters.items()}
    # ASCII, because a log may be read anywhere.
    table = Table('module', 'parameters', 'state', 'learning rate', box=box.ASCII)
    all_training = all_frozen = 0
    for part, names in _parts(states):
        training = [name for name in names if states[name] != _FROZEN]
        total, trains = (sum(parameters[n].numel() for n in some) for some in (names, training))
        state = 'trainable' if trains == total else f'{trains:,} trainable' if trains else _FROZEN
        lrs = (states[name] for name in training)
        rates = sorted({lr for lr in lrs if isinstance(lr, (int, float))})
        lowest_and_highest = dict.fromkeys([*rates[:1], *rates[-1:]])
        lr = ' to '.join(f'{rate:.4g}' for rate in lowest_and_highest)
        table.add_row(part, f'{total:,}', state, lr)
        all_training, all_frozen = all_training + trains, all_frozen + total - trains
    return (
        f'From iteration {iteration} on, {all_training:,} parameters train and '
        f'{all_frozen:,} are frozen:\n{table_as_text(table)}'
    )


def _parts(
    states: Mapping[str, object], prefix: str = '', depth: int = 1
) -> Iterator[tuple[str, list[str]]]:
    """Pairs of a part's name and the names of its parameters, in the order of the model."""
    parts: dict[str, dict[str, object]] = {}
    for name, state in states.items():
        head = name[len(prefix) :].split('.')[0]
        parts.setdefault(prefix + head, {})[name] = state
    for part, inside in parts.items():
        if len({*inside.values()}) == 1 or depth == _DEEPEST:
            yield part, list(inside)
        else:
            yield from _parts(inside, f'{part}.', depth + 1)
