"""Which tensor of a checkpoint belongs to which tensor of a module: names and shapes, no values."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..errors import PretrainedWeightsError
from ..source.read import Checkpoint, below
from .conversions import BY_NAME, CONVERSIONS, Conversion

Shapes = Mapping[str, 'tuple[int, ...]']
# What torch.compile, FSDP and activation checkpointing put into the names below them.
WRAPPERS = re.compile(
    r'(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)


def is_counted(name: str) -> bool:
    """Whether a tensor counts for coverage: all but BatchNorm's step counters."""
    return not name.endswith('num_batches_tracked')


def parents_of(name: str) -> list[str]:
    """``['a', 'a.b']`` for ``'a.b.c'``."""
    return [name[: cut - 1] for cut in _cuts(name)[1:]]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


# --- the names that a load is about -------------------------------------------------------------


@dataclass(frozen=True)
class Candidates:
    """The tensors of a file that may go into the module."""

    tensors: dict[str, Tensor]  # by their name in the file
    names: dict[str, str]  # the name after the user's key map and prefix -> the name in the file
    container: str  # the top-level key of the file that ``tensors`` were found under
    prefix: str  # the user's, ending in a dot; '' without one


def candidates_of(content: Checkpoint, prefix: str | None, key_map: Sequence | None) -> Candidates:
    """The state dict of a file, or what a user's prefix reaches elsewhere in the file."""
    begin = f'{prefix}.' if prefix and not prefix.endswith('.') else prefix or ''
    tensors, container = content.tensors, content.container
    if begin and not below(begin, tensors):
        elsewhere = {n: t for n, t in content.everything.items() if n.startswith(begin)}
        if elsewhere:
            tensors, container = elsewhere, ''
    if not tensors:
        return Candidates({}, {}, container, begin)
    renamed = apply_key_map(tensors, key_map)
    names = below(begin, renamed)
    if not names:
        first = dict.fromkeys(f'{n.partition(".")[0]}.' for n in renamed)
        raise PretrainedWeightsError(
            f'No name in the checkpoint begins with prefix={begin!r}. They begin with '
            f'{", ".join(list(first)[:6])}. Leave prefix=None to have it found.'
        )
    return Candidates(tensors, names, container, begin)


def reachable(content: Checkpoint) -> dict[str, str]:
    """The names by which a user's prefix reaches the tensors of a file -> their paths in it."""
    start = f'{content.container}.' if content.container else ''
    return {path.removeprefix(start): path for path in content.everything}


def apply_key_map(names: Iterable[str], key_map: Sequence | None) -> dict[str, str]:
    """New name -> name in the file, after a user's ``(pattern, replacement)`` pairs."""
    renamed = {name: name for name in names}
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
    result: dict[str, str] = {}
    for original, name in renamed.items():
        if name in result:
            raise PretrainedWeightsError(
                f'key_map gives {original} and {result[name]} the same name {name}.'
            )
        result[name] = original
    return result


# --- the best match -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """How the names of a checkpoint map to those of a module."""

    conversion: str  # name of the layout that the checkpoint came in
    prefix: str  # taken off the checkpoint's names
    root: str  # the prefix by which a user reaches the same tensors
    module_prefix: str  # put in front of the checkpoint's names
    names: dict[str, str]  # in the module -> in the checkpoint, whether or not the shapes agree
    # Name in the checkpoint -> the name that it would have in the module, for the tensors under
    # ``prefix`` that the module does not have.
    nearby: dict[str, str]
    fitting: int  # how many tensors agree in name and shape


def find_match(
    names: Mapping[str, str],
    shapes: Shapes,
    module_shapes: Shapes,
    conversion: str = 'auto',
    search_prefix: bool = True,
) -> Match:
    """The conversion and the prefixes under which most tensors fit by name and shape.

    Args:
        names: new name -> name in the file, as :func:`candidates_of` gives them.
        shapes, module_shapes: of each tensor in the file, and of each of the module in its order.
        search_prefix: whether to look for a prefix on the checkpoint's side.
    """
    named = BY_NAME.get(conversion)
    if not any(map(WRAPPERS.search, module_shapes)):
        names = {WRAPPERS.sub('', name): original for name, original in names.items()}
    expected = sum(map(is_counted, module_shapes))
    best = None
    for candidate in (named,) if named else CONVERSIONS:
        for match in _matches(candidate, names, shapes, module_shapes, search_prefix):
            if best is None or match.fitting > best.fitting:
                best = match
        if best is not None and best.fitting == expected:
            break
    if best is None and named is not None:
        raise PretrainedWeightsError(
            f'The checkpoint is not in the layout of {conversion!r}, which has names such as '
            f'{", ".join(named.signature)}. Leave conversion="auto", or give a key_map.'
        )
    return best  # type: ignore[return-value]  # the layout without signature always matches


def _matches(
    conversion: Conversion,
    names: Mapping[str, str],
    shapes: Shapes,
    module_shapes: Shapes,
    search_prefix: bool,
) -> Iterator[Match]:
    """What ``conversion`` gives for each prefix that its signature and the module's names have."""
    # The rules of a whole layout may put prefixes of their own in front of names.
    search_inner = search_prefix or bool(conversion.signature)
    for outer in _signature_prefixes(conversion.signature, list(names)):
        if outer and not search_prefix:
            continue
        for module_prefix in _shared_prefixes(module_shapes):
            own = below(module_prefix, module_shapes)
            renamed = {
                _rename(name, conversion, tuple(own)): original
                for name, original in below(outer, names).items()
            }
            inner = _likeliest_prefix(renamed, shapes, own) if search_inner else ''
            under = below(inner, renamed)
            yield Match(
                conversion.name,
                prefix=outer + inner,
                root=outer if conversion.signature else inner,
                module_prefix=module_prefix,
                names={module_prefix + name: under[name] for name in own if name in under},
                nearby={o: module_prefix + name for name, o in under.items() if name not in own},
                fitting=sum(_fits(name, o, shapes, own) for name, o in under.items()),
            )


def _fits(name: str, original: str, shapes: Shapes, own: Shapes) -> bool:
    return name in own and is_counted(name) and shapes[original] == own[name]


def _rename(name: str, conversion: Conversion, module_names: tuple[str, ...]) -> str:
    for pattern, replacement in conversion.rules:
        if not isinstance(replacement, str):
            replacement = partial(replacement, module_names)
        name = re.sub(pattern, replacement, name)
    return name


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


def _likeliest_prefix(renamed: Mapping[str, str], shapes: Shapes, own: Shapes) -> str:
    """The prefix behind which most tensors fit, the first of several in the file."""
    votes: Counter[str] = Counter()
    for name, original in renamed.items():
        for cut in _cuts(name):
            votes[name[:cut]] += _fits(name[cut:], original, shapes, own)
    return max(votes, key=votes.__getitem__, default='')
