"""Which value each tensor of a module would receive from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..advice.causes import prefix_that_fits
from ..advice.lookalikes import hidden_differences
from ..errors import PretrainedWeightsError
from ..report import LoadReport
from ..source.read import Checkpoint
from .classifier import (
    both_class_names,
    differs_in_classes_only,
    is_classifier,
    shared_classes,
)
from .input_channels import (
    BAND_NAMES,
    adapt_to_bands,
    chosen_bands,
    default_bands,
    first_convolution,
)
from .search import Match, Shapes, apply_key_map, find_match, is_counted


@dataclass(frozen=True)
class LoadOptions:
    """How weights are to be fitted to a module; the fields are the arguments of
    :func:`load_pretrained`."""

    prefix: str | None = None
    conversion: str = 'auto'
    key_map: Sequence | None = None
    first_conv: str | Mapping[str, Any] = 'adapt'
    min_coverage: float | None = None
    classes: str | None = None
    class_names: Sequence[str] | None = None


@dataclass
class LoadPlan:
    """What would be written where; nothing has been written yet.

    ``tensors`` are those in the file that come into question, by name; ``names`` are their names
    after the key map and a user's prefix; ``everything`` is what the whole file holds. ``writes``
    are a name of the module, its rows (None for all of them) and the value.
    """

    report: LoadReport
    match: Match
    tensors: dict[str, Tensor]
    names: dict[str, str]
    everything: dict[str, Tensor]
    writes: list[tuple[str, list[int] | None, Tensor]] = field(default_factory=list)


def plan_load(
    module: nn.Module, content: Checkpoint, options: LoadOptions, report: LoadReport
) -> LoadPlan:
    """Find for each tensor of ``module`` its value; fill in ``report``.

    Raises:
        PretrainedWeightsError: the settings fit nothing in the checkpoint at all.
    """
    if options.classes not in (None, 'by_name'):
        raise PretrainedWeightsError(
            f"classes={options.classes!r} is not understood. Use None or 'by_name'."
        )
    module_tensors = tensors_of(module)
    module_shapes = shapes_of(module_tensors)
    tensors = _tensors_in_question(content, options.prefix, report, module_shapes)
    names = _after_prefix(apply_key_map(list(tensors), options.key_map), options.prefix)
    match = find_match(
        names,
        shapes_of(tensors),
        module_shapes,
        options.conversion,
        search_prefix=options.prefix is None,
    )
    report.conversion, report.module_prefix = match.conversion, match.module_prefix
    report.prefix = _with_dot(options.prefix) + match.prefix
    plan = LoadPlan(report, match, tensors, names, content.everything)
    report.order = list(module_tensors)
    fitting = _Fitting(plan, module_tensors, options, content.meta)
    for name in module_tensors:
        fitting.sort_in(name)
    report.notes = [f'{rival!r} fits as well' for rival in match.rivals]
    report.notes += hidden_differences(module, match.conversion, report.reference)
    used = set(match.names.values())
    report.left_over = [name for name in tensors if name not in used and is_counted(name)]
    return plan


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of ``module`` themselves, by name."""
    if not isinstance(module, nn.Module):
        raise PretrainedWeightsError(f'{module!r} is no torch.nn.Module.')
    return {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _tensors_in_question(
    content: Checkpoint, prefix: str | None, report: LoadReport, module_shapes: Shapes
) -> dict[str, Tensor]:
    """The state dict, or what a user's prefix reaches elsewhere in the file."""
    report.container = content.container
    tensors = content.tensors
    begin = _with_dot(prefix)
    if begin and not any(name.startswith(begin) for name in tensors):
        elsewhere = {n: t for n, t in content.everything.items() if n.startswith(begin)}
        if elsewhere:
            report.container = ''
            return elsewhere
    if not tensors:
        raise PretrainedWeightsError(_why_empty(content, report, module_shapes), report)
    return tensors


def _why_empty(content: Checkpoint, report: LoadReport, module_shapes: Shapes) -> str:
    if not content.everything:
        found = 'its state dict is empty. Save the model again'
        if content.has_arrays:
            found = 'its values are numpy arrays. Save each as torch.as_tensor(array)'
        return f'{report.path} holds no tensors: {found}.'
    keys = list(dict.fromkeys(name.partition('.')[0] for name in content.everything))
    advice = prefix_that_fits(shapes_of(content.everything), module_shapes) or (
        ' No tensor there fits the module. If these are its weights under other names, say by '
        'prefix="KEY." which key and by key_map=[(pattern, replacement)] how names translate.'
    )
    return (
        f'{report.path} has its tensors under the unexpected top-level key '
        f'{" and ".join(repr(key) for key in keys[:5])}.{advice}'
    )


def _with_dot(prefix: str | None) -> str:
    return f'{prefix}.' if prefix and not prefix.endswith('.') else prefix or ''


def _after_prefix(names: dict[str, str], prefix: str | None) -> dict[str, str]:
    begin = _with_dot(prefix)
    rest = {n[len(begin) :]: original for n, original in names.items() if n.startswith(begin)}
    if not rest:
        first = dict.fromkeys(f'{n.partition(".")[0]}.' for n in names)
        raise PretrainedWeightsError(
            f'No name in the checkpoint begins with prefix={begin!r}. They begin with '
            f'{", ".join(list(first)[:6])}. Leave prefix=None to have it found.'
        )
    return rest


class _Fitting:
    """Sorts the tensors of a module into the groups of a report."""

    def __init__(
        self,
        plan: LoadPlan,
        module_tensors: Mapping[str, Tensor],
        options: LoadOptions,
        meta: Mapping[str, Any],
    ):
        self.plan, self.report, self.module_tensors = plan, plan.report, module_tensors
        self.options, self.meta = options, meta
        self.first_conv = first_convolution(shapes_of(module_tensors))

    def sort_in(self, name: str) -> None:
        """Put one tensor of the module into its group, and its value into the plan."""
        original = self.plan.match.names.get(name)
        if original is None:
            if is_counted(name):
                self.report.missing.append(name)
            return
        value, ours = self.plan.tensors[original], self.module_tensors[name]
        if not _same_kind(value, ours):
            self._mismatch(name, value, ours)
        elif self.options.classes == 'by_name' and is_classifier(name):
            self._copy_shared_classes(name, value, ours)
        elif name == self.first_conv and self._needs_bands(value, ours):
            self._adapt_first_conv(name, value, ours)
        elif value.shape == ours.shape:
            self.report.loaded.append(name)
            self.plan.writes.append((name, None, value))
        elif is_classifier(name) and differs_in_classes_only(value.shape, ours.shape):
            self.report.own_start[name] = (
                f'{len(value)} classes in the checkpoint, {len(ours)} in the module'
            )
        else:
            self._mismatch(name, value, ours)

    def _mismatch(self, name: str, value: Tensor, ours: Tensor) -> None:
        by_shape = value.shape != ours.shape
        self.report.mismatched[name] = [
            list(tensor.shape) if by_shape else _kind(tensor) for tensor in (value, ours)
        ]

    def _needs_bands(self, value: Tensor, ours: Tensor) -> bool:
        """Whether these are RGB kernels whose bands are to be rearranged."""
        if value.dim() != 4 or value[:, 0].shape != ours[:, 0].shape:
            return False
        theirs, count = value.shape[1], ours.shape[1]
        bands = chosen_bands(self.options.first_conv, count)
        if bands is None and theirs != count:
            raise PretrainedWeightsError(_about_bands(theirs, count))
        if theirs != 3 and isinstance(self.options.first_conv, Mapping):
            raise PretrainedWeightsError(
                f'first_conv names bands, and the weights see {theirs} bands, not the RGB '
                'that could be rearranged. Leave first_conv out.'
            )
        return theirs == 3 and bands not in (None, default_bands(3))

    def _adapt_first_conv(self, name: str, value: Tensor, ours: Tensor) -> None:
        bands = chosen_bands(self.options.first_conv, ours.shape[1])
        self.report.adapted[name] = f'bands {", ".join(bands)}'
        self.plan.writes.append((name, None, adapt_to_bands(value.float(), bands)))

    def _copy_shared_classes(self, name: str, value: Tensor, ours: Tensor) -> None:
        if not differs_in_classes_only(value.shape, ours.shape):
            self._mismatch(name, value, ours)
            return
        our_names, their_names = both_class_names(
            self.options.class_names, self.meta, len(ours), len(value)
        )
        pairs = shared_classes(our_names, their_names)
        if not pairs:
            self.report.own_start[name] = 'no class name in common'
            return
        rows = [mine for mine, _ in pairs]
        copied = ', '.join(our_names[row] for row in rows)
        self.report.adapted[name] = f'{len(rows)} of {len(ours)} classes by name: {copied}'
        self.plan.writes.append((name, rows, value[[theirs for _, theirs in pairs]]))


def _kind(tensor: Tensor) -> str:
    """``'float32'``, or ``'sparse_coo'`` and ``'meta'`` for tensors that hold no plain values."""
    if tensor.is_meta:
        return 'meta'
    described = tensor.dtype if tensor.layout == torch.strided else tensor.layout
    return str(described).rpartition('.')[2]


def _same_kind(value: Tensor, ours: Tensor) -> bool:
    """Whether copying one into the other keeps numbers what they are."""
    plain = value.layout == torch.strided and not (value.is_meta or ours.is_meta)
    real = value.is_floating_point() == ours.is_floating_point()
    return plain and real and value.is_complex() == ours.is_complex()


def _about_bands(theirs: int, ours: int) -> str:
    adapted = (
        "Say first_conv='adapt', or first_conv=dict(bands=[...]) with one of "
        f'{", ".join(BAND_NAMES)} for each band.'
    )
    other = f'Set in_channels={theirs} in the backbone, or take weights for {ours} bands.'
    return (
        f'The module sees {ours} bands and the weights {"RGB" if theirs == 3 else theirs} '
        f"(first_conv='error'). {adapted if theirs == 3 else other}"
    )
