"""The table that is printed at each transition: module, parameters, state, learning rate."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection

from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

_DEEPEST = 3


def describe(
    model: nn.Module, trains: Collection[str], lr_of: Callable[[str], float | None]
) -> str:
    """A table of the model's parts, split only where a part is neither all frozen nor all alike.

    ``trains`` names the parameters that train, ``lr_of(name)`` gives a parameter's learning rate.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    # ASCII, because a log may be read anywhere.
    table = Table('module', 'parameters', 'state', 'learning rate', box=box.ASCII)
    for part, names in _parts(list(sizes), trains, lr_of):
        total, training = sum(map(sizes.get, names)), [name for name in names if name in trains]
        state = 'trainable' if len(training) == len(names) else 'frozen'
        if 0 < len(training) < len(names):
            state = f'{sum(map(sizes.get, training)):,} trainable'
        rates = sorted({lr for lr in map(lr_of, training) if lr is not None})
        table.add_row(part, f'{total:,}', state, ' to '.join(f'{lr:.4g}' for lr in _ends(rates)))
    text = io.StringIO()
    Console(file=text, width=120, color_system=None).print(table)
    return text.getvalue().rstrip()


def _ends(rates: list[float]) -> list[float]:
    return rates if len(rates) < 2 else [rates[0], rates[-1]]


def _parts(names, trains, lr_of, prefix: str = '', depth: int = 1):
    """Pairs of a part's name and its parameters, in the order of the model."""
    parts: dict[str, list[str]] = {}
    for name in names:
        head = name[len(prefix) :].split('.')[0]
        parts.setdefault(prefix + head, []).append(name)
    for part, inside in parts.items():
        kinds = {(name in trains, name in trains and lr_of(name)) for name in inside}
        if len(kinds) == 1 or depth == _DEEPEST:
            yield part, inside
        else:
            yield from _parts(inside, trains, lr_of, f'{part}.', depth + 1)
