"""Which value each tensor of a module would receive from a checkpoint; nothing is written here."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..settings import LoadSettings
from .classifier import differs_in_classes_only, rows_by_name
from .input_channels import adapt_to_channels, adaptation, first_convolution, image_convolutions
from .search import Candidates, Match, Shapes, find_match, is_counted, shapes_of


@dataclass(frozen=True)
class Outcome:
    """What becomes of one tensor of the module.

    Attributes:
        group: ``'loaded'``, ``'adapted'``, ``'missing'``, ``'mismatched'`` or ``'own start'``.
        story: how it was adapted or why it keeps its own start; of a mismatched one the two shapes,
            or where these agree the two kinds of numbers: ``[checkpoint's, module's]``.
        value: what it would receive, None where it receives nothing.
        rows: which rows of it ``value`` holds; None for all.
    """

    group: str
    story: Any = None
    value: Tensor | None = None
    rows: list[int] | None = None


@dataclass(frozen=True)
class LoadPlan:
    """What would be written where, and what the checkpoint has beyond that."""

    own: dict[str, Tensor]  # the module's, by name, in its order
    candidates: Candidates
    match: Match
    outcomes: dict[str, Outcome]  # by name in the module, in its order
    left_over: list[str]  # names in the file of the candidates that go nowhere

    def named(self, group: str) -> dict[str, Any]:
        """The stories of the tensors in one group, by name."""
        return {n: outcome.story for n, outcome in self.outcomes.items() if outcome.group == group}

    @property
    def shapes(self) -> Shapes:
        """The shape of each tensor of the candidates."""
        return shapes_of(self.candidates.tensors)

    @property
    def module_shapes(self) -> Shapes:
        """The shape of each tensor of the module, in its order."""
        return shapes_of(self.own)

    @property
    def received(self) -> int:
        """How many of the counted tensors receive a value."""
        return sum(map(is_counted, [*self.named('loaded'), *self.named('adapted')]))

    @property
    def expected(self) -> int:
        """How many of the counted tensors should receive one."""
        without = [*self.named('missing'), *self.named('mismatched')]
        return self.received + sum(map(is_counted, without))


def plan_load(
    module: nn.Module,
    own: dict[str, Tensor],
    candidates: Candidates,
    meta: Mapping[str, Any],
    settings: LoadSettings,
) -> LoadPlan:
    """Decide for each tensor of a module what it receives; ``meta`` may tell the file's classes."""
    match = find_match(
        candidates.names,
        shapes_of(candidates.tensors),
        shapes_of(own),
        settings.conversion,
        search_prefix=settings.prefix is None,
    )
    outcomes = {}
    readers = {first_convolution(shapes_of(own)), *image_convolutions(module)}
    for name in own:
        value = candidates.tensors.get(match.names.get(name, ''))
        if value is not None:
            outcomes[name] = _outcome(name, value, own[name], name in readers, meta, settings)
        elif is_counted(name):
            outcomes[name] = Outcome('missing')
    used = set(match.names.values())
    left_over = [n for n in candidates.tensors if n not in used and is_counted(n)]
    return LoadPlan(own, candidates, match, outcomes, left_over)


def _outcome(
    name: str,
    value: Tensor,
    ours: Tensor,
    reads_image: bool,
    meta: Mapping[str, Any],
    settings: LoadSettings,
) -> Outcome:
    if not _same_kind(value, ours):
        return _mismatch(value, ours)
    only_classes_differ = differs_in_classes_only(name, value, ours)
    if settings.classes == 'by_name' and only_classes_differ:
        return _shared_classes(value, ours, meta, settings)
    if reads_image and value.dim() == ours.dim() == 4 and value[:, 0].shape == ours[:, 0].shape:
        sources = adaptation(settings.first_conv, value.shape[1], ours.shape[1])
        if sources:
            adapted = adapt_to_channels(value.float(), sources)
            return Outcome('adapted', f'input channels {", ".join(sources)}', adapted)
    if value.shape == ours.shape:
        return Outcome('loaded', value=value)
    if only_classes_differ:
        story = f'{len(value)} classes in the checkpoint, {len(ours)} in the module'
        return Outcome('own start', story)
    return _mismatch(value, ours)


def _shared_classes(
    value: Tensor, ours: Tensor, meta: Mapping[str, Any], settings: LoadSettings
) -> Outcome:
    rows, their_rows = rows_by_name(settings.class_names, meta, len(ours), len(value))
    if not rows:
        return Outcome('own start', 'no class name in common')
    names = [(settings.class_names or ())[row] for row in rows]
    story = f'{len(rows)} of {len(ours)} classes by name: {", ".join(names)}'
    return Outcome('adapted', story, value[their_rows], rows)


def _mismatch(value: Tensor, ours: Tensor) -> Outcome:
    by_shape = value.shape != ours.shape
    story = [list(t.shape) if by_shape else _kind(t) for t in (value, ours)]
    return Outcome('mismatched', story)


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


def has_numbers(tensor: Tensor) -> bool:
    """Whether a tensor holds plain values, which torch can turn into others."""
    return tensor.layout == torch.strided and not tensor.is_meta and _converts(tensor.dtype)


@functools.cache
def _converts(dtype: torch.dtype) -> bool:
    try:
        torch.empty(1, dtype=dtype).float()
    except RuntimeError:  # for numbers of four bits
        return False
    return True
