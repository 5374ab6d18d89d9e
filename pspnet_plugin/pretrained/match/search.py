"""Which tensor of a checkpoint belongs to which tensor of a module: names and shapes, no values."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..errors import PretrainedWeightsError
from ..source.read import Checkpoint
from .conversions import BY_NAME, CONVERSIONS, Conversion

Value = TypeVar('Value')
Shapes = Mapping[str, 'tuple[int, ...]']
# What torch.compile, FSDP and activation checkpointing put into the names below them.
WRAPPERS = re.compile(
    r'(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)


class Entry(NamedTuple):
    """A tensor of the checkpoint while it is converted."""

    originals: tuple[str, ...]  # its name in the file, or those of its parts
    tensor: Tensor


@dataclass(frozen=True)
class Match:
    """One way in which the tensors of a checkpoint map to those of a module."""

    conversion: str  # name of the layout that the checkpoint would come in
    prefix: str  # taken off the checkpoint's names
    setting: str  # the setting ``prefix`` by which a user reaches the same tensors
    module_prefix: str  # put in front of the checkpoint's names
    names: dict[str, Entry]  # by name in the module, whether or not the shapes agree
    # Name in the checkpoint -> the name that it would have in the module, for the tensors under
    # ``prefix`` that the module does not have.
    unknown: dict[str, str]
    fitting: int  # how many tensors agree in name and shape
    # Of the best match: among what was searched, under which top-level key of the file, and what
    # else in the file fits best, without any settings; None where it is surely less.
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    container: str = ''
    other: Match | None = None


def find_match(
    checkpoint: Checkpoint,
    own: Mapping[str, Tensor],
    conversion: str = 'auto',
    prefix: str | None = None,
    key_map: Sequence | None = None,
) -> Match:
    """The conversion and the prefixes under which most tensors fit by name and shape.

    It is searched in the state dict of the file, or in what ``prefix`` reaches elsewhere in it.

    Args:
        own: the tensors of the module, in its order.
        conversion, prefix, key_map: the user's settings.
    """
    start = f'{prefix}.' if prefix and not prefix.endswith('.') else prefix or ''
    tensors, container = checkpoint.tensors, checkpoint.container
    if start and not below(start, tensors):
        elsewhere = {n: t for n, t in checkpoint.everything.items() if n.startswith(start)}
        tensors, container = (elsewhere, '') if elsewhere else (tensors, container)
    shapes, reachable = shapes_of(own), _reachable(checkpoint)
    if not tensors:
        raise _no_state_dict(checkpoint, _best_match(reachable, shapes))
    renamed = apply_key_map(tensors, key_map)
    entries = {new: Entry((old,), tensors[old]) for new, old in renamed.items()}
    named = below(start, entries)
    if not named:
        first = dict.fromkeys(f'{name.partition(".")[0]}.' for name in entries)
        raise PretrainedWeightsError(
            f'No name in the checkpoint begins with prefix={start!r}. They begin with '
            f'{", ".join(list(first)[:6])}. Leave prefix=None to have it found.'
        )
    best = _best_match(named, shapes, conversion, prefix is None)
    if prefix is None and conversion == 'auto':
        for taken in (name for entry in best.names.values() for name in entry.originals):
            reachable.pop(taken, None)
    other = _best_match(reachable, shapes) if len(reachable) >= best.fitting else None
    prefix = start + best.prefix
    return replace(best, prefix=prefix, tensors=tensors, container=container, other=other)


def _reachable(checkpoint: Checkpoint) -> dict[str, Entry]:
    """All tensors of a file, by the names by which a user's prefix reaches them."""
    start = f'{checkpoint.container}.' if checkpoint.container else ''
    everything = checkpoint.everything.items()
    return {path.removeprefix(start): Entry((path,), tensor) for path, tensor in everything}


def _no_state_dict(checkpoint: Checkpoint, other: Match) -> PretrainedWeightsError:
    keys = list(dict.fromkeys(repr(name.partition('.')[0]) for name in checkpoint.everything))
    advice = f"Say prefix={other.setting!r}: {other.fitting} of the module's tensors fit there."
    if not other.fitting:
        advice = (
            'No tensor there fits the module. If these are its weights under other names, say by '
            'prefix="KEY." which key and by key_map=[(pattern, replacement)] how names translate.'
        )
    return PretrainedWeightsError(
        'The checkpoint has its tensors under the unexpected top-level key '
        f'{" and ".join(keys[:5])}. {advice}'
    )


def is_counted(name: str) -> bool:
    """Whether a tensor counts for coverage: all but BatchNorm's step counters."""
    return not name.endswith('num_batches_tracked')


def parents_of(name: str) -> list[str]:
    """``['a', 'a.b']`` for ``'a.b.c'``."""
    return [name[: cut - 1] for cut in _cuts(name)[1:]]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def below(prefix: str, named: Mapping[str, Value]) -> dict[str, Value]:
    """What has a name that begins with ``prefix``, by the rest of its name."""
    return {n[len(prefix) :]: value for n, value in named.items() if n.startswith(prefix)}


def apply_key_map(names: Iterable[str], key_map: Sequence | None) -> dict[str, str]:
    """New name -> name in the file, after a user's ``(pattern, replacement)`` pairs."""
    renamed = {name: name for name in names}  # name in the file -> new name
    for pattern, replacement in key_map or ():
        matching = [original for original, name in renamed.items() if re.search(pattern, name)]
        if not matching:
            raise PretrainedWeightsError(
                f'key_map: no name of the checkpoint matches {pattern!r}. Its names look like '
                f'{", ".join(list(renamed.values())[:3])}.'
            )
        for original in matching:
            if replacement is None:
                del renamed[original]
            else:
                renamed[original] = re.sub(pattern, replacement, renamed[original])
    originals: dict[str, str] = {}
    for original, name in renamed.items():
        if originals.setdefault(name, original) != original:
            raise PretrainedWeightsError(
                f'key_map gives {original} and {originals[name]} the same name {name}.'
            )
    return originals


# --- the best match -------------------------------------------------------------------------


def _best_match(
    named: Mapping[str, Entry],
    target: Shapes,
    conversion: str = 'auto',
    search_prefix: bool = True,
) -> Match:
    """The match by which most entries of the file, by name, fit the module's shapes."""
    asked = BY_NAME.get(conversion)
    if not any(map(WRAPPERS.search, target)):
        named = {WRAPPERS.sub('', name): entry for name, entry in named.items()}
    expected = sum(map(is_counted, target))
    best = None
    for layout in (asked,) if asked else CONVERSIONS:
        for match in _matches(layout, named, target, search_prefix):
            if best is None or match.fitting > best.fitting:
                best = match
        if best is not None and best.fitting == expected:
            break
    if best is None:  # the layout without a signature always has one
        raise PretrainedWeightsError(
            f'The checkpoint is not in the layout of {conversion!r}, which has names such as '
            f'{", ".join(BY_NAME[conversion].signature)}. Leave conversion="auto", or give a '
            'key_map.'
        )
    return best


def _matches(
    layout: Conversion, named: Mapping[str, Entry], target: Shapes, search_prefix: bool
) -> Iterator[Match]:
    """One for each prefix that the names in the file and in the module may have."""
    # The rules of a whole layout may put prefixes of their own in front of names.
    search_inner = search_prefix or bool(layout.signature)
    outers = _signature_prefixes(layout.signature, list(named))
    for outer in outers if search_prefix else [o for o in outers if not o]:
        for module_prefix in _shared_prefixes(target):
            wanted = below(module_prefix, target)
            renamed = _converted(below(outer, named), layout, tuple(wanted))
            inner = _likeliest_prefix(renamed, wanted) if search_inner else ''
            given = below(inner, renamed)
            yield Match(
                layout.name,
                prefix=outer + inner,
                setting=outer if layout.signature else inner,
                module_prefix=module_prefix,
                names={module_prefix + n: given[n] for n in wanted if n in given},
                unknown={
                    e.originals[0]: module_prefix + n for n, e in given.items() if n not in wanted
                },
                fitting=sum(_fits(name, entry, wanted) for name, entry in given.items()),
            )


def _fits(name: str, entry: Entry, wanted: Shapes) -> bool:
    return name in wanted and is_counted(name) and same_shape(entry.tensor.shape, wanted[name])


def same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes agree but for ones at the end, which a 1 x 1 convolution has."""
    return tuple(one) == tuple(other) or _without_ones(one) == _without_ones(other)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(shape)


def _joined(parts: Sequence[Entry]) -> Entry | None:
    """One entry of the rows of two, None where they are not two of the same length and kind."""
    kinds = {(p.tensor.shape[1:], p.tensor.dtype, p.tensor.layout, p.tensor.device) for p in parts}
    if len(parts) != 2 or len(kinds) != 1 or parts[0].tensor.layout != torch.strided:
        return None
    originals = parts[0].originals + parts[1].originals
    return Entry(originals, torch.cat([part.tensor for part in parts]))


def _converted(
    named: Mapping[str, Entry], layout: Conversion, module_names: tuple[str, ...]
) -> dict[str, Entry]:
    """The entries under the names that they have in the module, with the values that it wants."""
    renamed: dict[str, Entry] = {}
    for name, entry in named.items():
        for pattern, replacement in layout.rules:
            if not isinstance(replacement, str):
                replacement = partial(replacement, module_names)
            name = re.sub(pattern, replacement, name)
        renamed[name] = entry
    renamed.pop('', None)
    for name in [name for name in renamed if name.endswith('+0')]:
        whole = _joined([renamed[part] for part in (name, f'{name[:-1]}1') if part in renamed])
        if whole:
            del renamed[name], renamed[f'{name[:-1]}1']
            renamed[name[:-2]] = whole
    for pattern, change in layout.changes:
        for name in filter(re.compile(pattern).search, renamed):
            if renamed[name].tensor.layout == torch.strided:
                renamed[name] = renamed[name]._replace(tensor=change(renamed[name].tensor))
    return renamed


# --- prefixes -----------------------------------------------------------------------------------


def _signature_prefixes(signature: tuple[str, ...], names: Sequence[str]) -> list[str]:
    """The prefixes behind which all of a signature stands in ``names``, in order of appearance."""
    if not signature:
        return ['']
    first, *others = (re.escape(name) + ('' if name.endswith('.') else '$') for name in signature)
    pattern = re.compile(rf'(?:^|(?<=\.)){first}')
    found = dict.fromkeys(n[: m.start()] for n in names for m in pattern.finditer(n))
    return [
        prefix
        for prefix in found
        if all(any(re.match(re.escape(prefix) + other, n) for n in names) for other in others)
    ]


def _shared_prefixes(names: Iterable[str]) -> list[str]:
    """``['', 'timm_model.']`` where all of the module stands under ``timm_model``."""
    shared = os.path.commonprefix(list(names))  # noqa: RUF071  cut at a dot below
    return [shared[:cut] for cut in _cuts(shared)]


def _cuts(name: str) -> list[int]:
    """Where the parts of a dotted name begin."""
    return [0, *(dot + 1 for dot, sign in enumerate(name) if sign == '.')]


def _likeliest_prefix(named: Mapping[str, Entry], wanted: Shapes) -> str:
    """The prefix behind which most tensors fit, the first of several in the file."""
    votes: Counter[str] = Counter()
    for name, entry in named.items():
        for cut in _cuts(name):
            votes[name[:cut]] += _fits(name[cut:], entry, wanted)
    return max(votes, key=votes.__getitem__, default='')
