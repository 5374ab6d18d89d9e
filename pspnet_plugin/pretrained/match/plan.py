"""Which value each tensor of a module would receive from a checkpoint; nothing is written here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .adapt import (
    adapt_to_channels,
    adaptation,
    differs_in_classes_only,
    first_convolution,
    image_convolutions,
    rows_by_name,
)
from .search import Match, is_counted, same_shape, shapes_of

# Backbones of transformers normalize what they return; a classifier has one such norm at most.
OUTPUT_NORM = re.compile(r'^(?:backbone\.)?norm\d\.(?:weight|bias)$')


@dataclass(frozen=True)
class LoadPlan:
    """What would be written where, and what the checkpoint has beyond that; names are sorted as in
    :class:`LoadReport`."""

    own: dict[str, Tensor]  # the module's, by name, in its order
    match: Match
    values: dict[str, Tensor] = field(default_factory=dict)  # what tensors receive, by their name
    rows: dict[str, list[int]] = field(default_factory=dict)  # where some rows alone receive it
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, list] = field(default_factory=dict)
    reinitialized: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)

    @property
    def received(self) -> int:
        """How many of the counted tensors receive a value."""
        return sum(map(is_counted, [*self.loaded, *self.adapted]))

    @property
    def expected(self) -> int:
        """How many of the counted tensors should receive one."""
        return self.received + sum(map(is_counted, [*self.missing, *self.mismatched]))


def plan_load(
    module: nn.Module,
    own: dict[str, Tensor],
    match: Match,
    meta: Mapping[str, Any],
    first_conv: str | Mapping[str, Any] = 'adapt',
    class_names: Sequence[str] | None = None,
) -> LoadPlan:
    """Decide for each tensor of a module what it receives.

    Args:
        own: the tensors of ``module``, by name.
        meta: of the checkpoint; it may tell the classes.
        first_conv: the user's setting.
        class_names: the module's classes, where rows of classifiers go by name; else None.
    """
    plan = LoadPlan(own, match)
    readers = {first_convolution(shapes_of(own)), *image_convolutions(module)}
    for name, ours in own.items():
        if name not in match.names:
            if is_counted(name):
                _without_value(plan, module, name)
            continue
        value = match.names[name].tensor
        sources = adaptation(first_conv, value, ours) if name in readers else None
        only_classes_differ = differs_in_classes_only(name, value, ours)
        if not _same_kind(value, ours):
            plan.mismatched[name] = _difference(value, ours)
        elif class_names is not None and only_classes_differ:
            rows, their_rows, story = rows_by_name(class_names, meta, len(ours), len(value))
            if rows:
                plan.values[name], plan.rows[name] = value[their_rows], rows
            (plan.adapted if rows else plan.reinitialized)[name] = story
        elif sources:
            plan.values[name] = adapt_to_channels(value.float(), sources)
            plan.adapted[name] = f'input channels {", ".join(sources)}'
        elif same_shape(value.shape, ours.shape):
            plan.values[name] = value.reshape(ours.shape)
            plan.loaded.append(name)
        elif only_classes_differ:
            counts = f'{len(value)} classes in the checkpoint, {len(ours)} in the module'
            plan.reinitialized[name] = counts
        else:
            plan.mismatched[name] = _difference(value, ours)
    used = {original for entry in match.names.values() for original in entry.originals}
    plan.unexpected.extend(n for n in match.tensors if n not in used and is_counted(n))
    return plan


def _without_value(plan: LoadPlan, module: nn.Module, name: str) -> None:
    """Sort in a tensor that the checkpoint has nothing for."""
    if OUTPUT_NORM.search(name) and isinstance(
        module.get_submodule(name.rpartition('.')[0]), nn.LayerNorm
    ):
        plan.reinitialized[name] = 'the checkpoint has no such norm behind a stage'
    elif plan.own[name].dim() and not _is_continuous(plan.own[name]):
        plan.reinitialized[name] = 'a table that the module computes'
    else:
        plan.missing.append(name)


def _difference(value: Tensor, ours: Tensor) -> list:
    by_shape = value.shape != ours.shape
    return [list(t.shape) if by_shape else _kind(t) for t in (value, ours)]


def _kind(tensor: Tensor) -> str:
    """``'float32'``, or ``'sparse_coo'`` and ``'meta'`` for tensors that hold no plain values."""
    if tensor.is_meta:
        return 'meta'
    described = tensor.dtype if tensor.layout == torch.strided else tensor.layout
    return str(described).rpartition('.')[2]


def _same_kind(value: Tensor, ours: Tensor) -> bool:
    """Whether copying one into the other keeps numbers what they are."""
    real = value.is_floating_point() == ours.is_floating_point()
    plain = has_numbers(value) and not ours.is_meta
    return plain and real and value.is_complex() == ours.is_complex()


def _is_continuous(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def has_numbers(tensor: Tensor) -> bool:
    """Whether a tensor holds plain values, which torch can turn into others."""
    plain = tensor.layout == torch.strided and not tensor.is_meta
    return plain and 'float4' not in str(tensor.dtype)
