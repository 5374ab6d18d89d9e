"""Patterns -> the parameters and buffers of a model that they name.

A pattern is one of

- a name, ``backbone`` or ``decode_head.conv_seg.bias``: that module, parameter or buffer, and all
  below it;
- a glob, ``backbone.layer[12]`` or ``*.bn?``, matched against full names (``*`` crosses dots), each
  match covering all below it;
- stages of a backbone, ``backbone.stages[:2]``, counted from 0: see :func:`find_stages`. A slice
  without a start begins with the stem, so ``stages[:0]`` is the stem alone;
- ``norm``: every normalization layer, by :func:`is_norm`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain

from torch import nn

from ..errors import PspnetPluginError
from ..utils.text import did_you_mean, near_misses

_STAGE_PATTERN = re.compile(r'(?:(?P<owner>.+)\.)?stages\[(?P<index>-?\d*(?::-?\d*)?)\]')
_NUMBERED_STAGE = re.compile(r'(?:layer|stage|block)s?_?\d+|s\d+')
_LISTS_OF_STAGES = ('stages', 'layers', 'blocks')
# Of classes that are no subclasses of torch's: RMSNorm, MMCV's SyncBatchNorm, timm's EvoNorm2dB0.
_NAME_OF_NORM = re.compile(
    r'(Batch|Instance|Group|Layer|RMS|Rms|Response|Evo)Norm(Act|Tlu|Fp32)?(\d?d)?([A-Z]\d[a-z]?)?$'
)
_NORM_CLASSES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class SelectionError(PspnetPluginError):
    """A pattern names nothing in the model."""


def select(
    model: nn.Module, patterns: Iterable[str], exclude: Iterable[str] = ()
) -> frozenset[str]:
    """Names of the parameters and buffers that ``patterns`` cover and ``exclude`` does not.

    A tensor that the model holds under several names is covered when one of them is, and comes back
    under its first.

    Raises:
        SelectionError: a pattern covers no parameter and no buffer, or ``exclude`` leaves nothing.
    """
    names_of = _all_names(model)
    patterns, exclude = list(patterns), list(exclude)
    covered, kept_out = (
        frozenset().union(*(_cover(model, pattern, names_of) for pattern in some))
        for some in (patterns, exclude)
    )
    if patterns and not covered - kept_out:
        raise SelectionError(
            f'Nothing is left of {patterns} without {exclude}: name more, or exclude less.'
        )
    return covered - kept_out


def named_alone(model: nn.Module, patterns: Iterable[str]) -> frozenset[str]:
    """The parameters that a pattern names by their own last name, not by a module around them.

    ``backbone.pos_embed`` and ``*.pos_embed`` do so; ``backbone`` and ``backbone.*`` do not.
    """
    patterns = list(patterns)
    return frozenset(
        first
        for first, names in _all_names(model).items()
        for name in names
        if any(fnmatchcase(name, p) and _last(name) == _last(p) for p in patterns)
    )


def _last(name: str) -> str:
    return name.rpartition('.')[2]


def _all_names(model: nn.Module) -> dict[str, list[str]]:
    """First name of each parameter and buffer -> all names under which the model holds it."""
    names: dict[int, list[str]] = {}
    for name, tensor in chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    ):
        names.setdefault(id(tensor), []).append(name)
    return {same[0]: same for same in names.values()}


def _cover(model: nn.Module, pattern: str, names_of: dict[str, list[str]]) -> frozenset[str]:
    norms = [name for name, m in model.named_modules() if pattern == 'norm' and is_norm(m)]
    covered = _covered_by([pattern, *norms], names_of)
    covered = covered or _covered_by(_stage_members(model, pattern), names_of)
    if not covered:
        raise SelectionError(_nothing_matches(model, pattern))
    return covered


def _covered_by(patterns: list[str], names_of: dict[str, list[str]]) -> frozenset[str]:
    exact = set(patterns)
    globs = [pattern for pattern in patterns if any(sign in pattern for sign in '*?[')]
    return frozenset(
        first
        for first, names in names_of.items()
        for part in {part for name in names for part in _upward(name)}
        if part in exact or any(fnmatchcase(part, glob) for glob in globs)
    )


def _upward(name: str) -> Iterator[str]:
    """``a.b.c`` -> ``a.b.c``, ``a.b``, ``a``."""
    while name:
        yield name
        name = name.rpartition('.')[0]


def _nothing_matches(model: nn.Module, pattern: str) -> str:
    """Why a pattern covers nothing, and names that cover something."""
    names = list(dict.fromkeys(part for name in _all_names(model) for part in _upward(name)))
    inside = [name for name in names if name.endswith(f'.{pattern}')]
    near = list(dict.fromkeys(inside + near_misses(pattern, names, 5)))[:5]
    hint = f'Near misses: {", ".join(near)}.' if near else 'Nothing has a similar name.'
    if any(name == pattern for name, _ in model.named_modules()):
        hint = f'It is a module without any. {hint}'
    top = ', '.join(name for name, _ in model.named_children())
    return (
        f'The pattern {pattern!r} matches no parameter and no buffer of {type(model).__name__}. '
        f'{hint} Its top modules: {top}.'
    )


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalizes feature maps: torch's own layers, and what is named as they are.

    ``FrozenBatchNorm2d`` or ``LlamaRMSNorm`` normalize; spectral norm, weight norm and a module
    such as ``NormalizedHead`` have weights of another kind.
    """
    if isinstance(module, _NORM_CLASSES):
        return True
    own = chain(module._parameters.values(), module._buffers.values())
    holds_tensors = any(tensor is not None for tensor in own)
    return holds_tensors and _NAME_OF_NORM.search(type(module).__name__) is not None


def module_named(model: nn.Module, name: str) -> nn.Module:
    """The module of a dotted name; raises SelectionError where there is none."""
    modules = dict(model.named_modules())
    if not isinstance(name, str) or name not in modules:
        near = did_you_mean(str(name), modules)
        raise SelectionError(f'{name!r} is no module of {type(model).__name__}.{near}')
    return modules[name]


# --- stages of a backbone -----------------------------------------------------------------------


def _stage_members(model: nn.Module, pattern: str) -> list[str]:
    match = _STAGE_PATTERN.fullmatch(pattern)
    if match is None:
        return []
    owner, index = match['owner'] or '', match['index']
    modules = dict(model.named_modules())
    if owner not in modules or not index:
        raise SelectionError(_nothing_matches(model, pattern if not index else owner))
    stem, stages = find_stages(modules[owner])
    if ':' in index:
        start, stop = (int(bound) if bound else None for bound in index.split(':'))
        members = ([stem] if start is None else []) + stages[start:stop]
    elif -len(stages) <= int(index) < len(stages):
        members = [stages[int(index)]]
    else:
        members = []
    if not any(members):
        raise SelectionError(
            f'The pattern {pattern!r} names no stage: {owner or "the model"} has {len(stages)}, '
            f'numbered from 0, after a stem.'
        )
    return [f'{owner}.{name}' if owner else name for part in members for name in part]


def find_stages(backbone: nn.Module) -> tuple[list[str], list[list[str]]]:
    """The stem and the stages of a backbone, as names of modules and parameters inside it.

    Stages are, in the order of registration, the numbered children (``layer1`` of ResNet,
    ``stages_0`` of ConvNeXt, ``s1`` of RegNet, ``stage2`` of HRNet) or else the entries of a child
    called ``stages``, ``layers`` or ``blocks`` (EfficientNet, Swin, MiT, ViT). What is registered
    before the first stage is the stem; a child between two stages belongs to the later one (HRNet's
    transitions); what follows the last stage belongs to none. A wrapper around one child
    (``TIMMBackbone``) has the stages of that child.

    Raises:
        SelectionError: the module has no such children.
    """
    children = [*backbone._parameters, *(name for name, _ in backbone.named_children())]
    numbered = [name for name in children if _NUMBERED_STAGE.fullmatch(name)]
    if numbered:
        return _split_at(children, numbered)
    for name in _LISTS_OF_STAGES:
        entries = getattr(backbone, name, None)
        if isinstance(entries, (nn.ModuleList, nn.Sequential)) and len(entries):
            stem = children[: children.index(name)]
            return stem, [[f'{name}.{entry}'] for entry, _ in entries.named_children()]
    with_parameters = [
        name for name, child in backbone.named_children() if any(True for _ in child.parameters())
    ]
    if len(with_parameters) == 1:
        inner = with_parameters[0]
        stem, stages = find_stages(getattr(backbone, inner))
        stem, *stages = ([f'{inner}.{name}' for name in part] for part in (stem, *stages))
        return stem, stages
    raise SelectionError(
        f'{type(backbone).__name__} has no stages that can be told from its children '
        f'({", ".join(children)}): name them by globs instead.'
    )


def stage_patterns(model: nn.Module, module: str) -> list[str]:
    """Patterns for the stem of ``module``, where it has parameters, and for each of its stages.

    Raises:
        SelectionError: there is no such module, or it has no stages.
    """
    stem, stages = find_stages(module_named(model, module))
    has_stem = _covered_by([f'{module}.{name}' for name in stem], _all_names(model))
    patterns = [f'{module}.stages[{number}]' for number in range(len(stages))]
    return [f'{module}.stages[:0]', *patterns] if has_stem else patterns


def _split_at(children: list[str], stages: list[str]) -> tuple[list[str], list[list[str]]]:
    positions = [children.index(stage) for stage in stages]
    stem = children[: positions[0]]
    starts = [positions[0], *(previous + 1 for previous in positions[:-1])]
    return stem, [children[a : b + 1] for a, b in zip(starts, positions)]
