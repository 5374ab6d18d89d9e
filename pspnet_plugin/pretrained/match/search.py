"""Which tensor of a checkpoint belongs to which tensor of a module: names and shapes, no values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import PretrainedWeightsError
from .conversions import CONVERSIONS, Conversion, conversion_named

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Match:
    """How the names of a checkpoint map to those of a module.

    ``names`` gives for a name of the module the one of the checkpoint, whether or not the shapes
    agree. ``prefix`` was taken off the checkpoint's names, ``module_prefix`` put in front of them;
    ``root`` is the prefix by which a user reaches the same tensors. ``nearby`` gives the names, as
    the module would say them, of the checkpoint's tensors under that prefix that the module does
    not have. ``rivals`` are other prefixes under which as much fits.
    """

    conversion: str
    prefix: str
    root: str
    module_prefix: str
    names: dict[str, str]
    nearby: dict[str, str] = field(default_factory=dict)
    fitting: int = 0
    rivals: tuple[str, ...] = ()


def is_counted(name: str) -> bool:
    """Whether a tensor counts for coverage: all but BatchNorm's step counters."""
    return not name.endswith('num_batches_tracked')


def apply_key_map(names: Sequence[str], key_map: Sequence | None) -> dict[str, str]:
    """New name -> name in the file, after a user's ``(pattern, replacement)`` pairs.

    A replacement of None leaves the tensors whose name the pattern matches out.

    Raises:
        PretrainedWeightsError: a pattern is not a regular expression, matches no name at all, or
            gives two tensors one name; or it is no list of pairs.
    """
    renamed = {name: name for name in names}
    for pattern, replacement in _checked_pairs(key_map):
        renamed = _replace(renamed, pattern, replacement)
    return renamed


def _checked_pairs(key_map: Sequence | None) -> list[tuple[str, str | None]]:
    if key_map is None:
        return []
    pairs = key_map if isinstance(key_map, (list, tuple)) else [key_map]
    for pair in pairs:
        kinds = [type(part) for part in pair] if isinstance(pair, (list, tuple)) else []
        if kinds not in ([str, str], [str, type(None)]):
            raise PretrainedWeightsError(
                f'key_map: {pair!r} is no pair of texts. Give a list of pairs (pattern, '
                "replacement), such as [(r'^net\\.', '')], with None to leave tensors out."
            )
    return list(pairs)


def _replace(renamed: dict[str, str], pattern: str, replacement: str | None) -> dict[str, str]:
    result = {}
    try:
        matching = [name for name in renamed if re.search(pattern, name)]
        for name, original in renamed.items():
            new = name
            if name in matching:
                new = None if replacement is None else re.sub(pattern, replacement, name)
            if new is None:
                continue
            if new in result:
                raise PretrainedWeightsError(
                    f'key_map gives {original} and {result[new]} the same name {new}.'
                )
            result[new] = original
    except re.error as error:
        raise PretrainedWeightsError(
            f'key_map: {pattern!r} -> {replacement!r} is no regular expression: {error}.'
        ) from error
    if not matching:
        raise PretrainedWeightsError(
            f'key_map: no name of the checkpoint matches {pattern!r}. Its names look like '
            f'{", ".join(list(renamed)[:3])}.'
        )
    return result


def find_match(
    names: Mapping[str, str],
    shapes: Shapes,
    module_shapes: Shapes,
    conversion: str = 'auto',
    search_prefix: bool = True,
) -> Match:
    """The conversion and the prefixes under which most tensors fit by name and shape.

    Args:
        names: new name -> name in the file, as :func:`apply_key_map` and a user's prefix left them.
        shapes: shape of each tensor in the file.
        module_shapes: shape of each tensor of the module, in its order.
        conversion: the name of one conversion, or ``'auto'`` for the best.
        search_prefix: whether to look for a prefix on the checkpoint's side.
    """
    wanted = CONVERSIONS if conversion == 'auto' else (conversion_named(conversion),)
    expected = sum(map(is_counted, module_shapes))
    best = None
    for candidate in wanted:
        for match in _matches(candidate, names, shapes, module_shapes, search_prefix):
            if best is None or match.fitting > best.fitting:
                best = match
        if best is not None and best.fitting == expected:
            break
    if best is None:
        raise PretrainedWeightsError(
            f'The checkpoint is not in the layout of conversion {conversion!r}, which has names '
            f'such as {", ".join(wanted[0].signature)}. Leave conversion="auto", or give a key_map.'
        )
    return best


def _matches(
    conversion: Conversion,
    names: Mapping[str, str],
    shapes: Shapes,
    module_shapes: Shapes,
    search_prefix: bool,
) -> Iterator[Match]:
    # The rules of a whole layout may put prefixes of their own in front of names.
    search_inner = search_prefix or bool(conversion.signature)
    for outer in conversion.prefixes(names):
        if outer and not search_prefix:
            continue
        below = {n[len(outer) :]: original for n, original in names.items() if n.startswith(outer)}
        for module_prefix in _shared_prefixes(list(module_shapes)):
            inside = {n[len(module_prefix) :]: shape for n, shape in module_shapes.items()}
            own = tuple(inside)
            renamed = {conversion.rename(name, own): original for name, original in below.items()}
            found = _likeliest_prefixes(renamed, shapes, inside) if search_inner else ['']
            match = _match(conversion, outer, found[0], module_prefix, renamed, shapes, inside)
            yield replace(match, rivals=tuple(outer + rival for rival in found[1:]))


def _match(
    conversion: Conversion,
    outer: str,
    inner: str,
    module_prefix: str,
    renamed: Mapping[str, str],
    shapes: Shapes,
    inside: Shapes,
) -> Match:
    under = {n[len(inner) :]: original for n, original in renamed.items() if n.startswith(inner)}
    found = {module_prefix + name: under[name] for name in inside if name in under}
    fitting = sum(
        is_counted(name) and shapes[original] == inside[name[len(module_prefix) :]]
        for name, original in found.items()
    )
    nearby = {o: module_prefix + n for n, o in under.items() if n not in inside}
    root = outer if conversion.signature else inner
    return Match(
        conversion.name, outer + inner, root, module_prefix, found, nearby, fitting=fitting
    )


def _shared_prefixes(names: Sequence[str]) -> list[str]:
    """``['', 'timm_model.']`` where all of the module stands under ``timm_model``."""
    prefixes = ['']
    while names:
        part = names[0][len(prefixes[-1]) :].partition('.')
        longer = prefixes[-1] + part[0] + part[1]
        if not part[1] or not all(name.startswith(longer) for name in names):
            break
        prefixes.append(longer)
    return prefixes


def _likeliest_prefixes(renamed: Mapping[str, str], shapes: Shapes, inside: Shapes) -> list[str]:
    """The prefixes behind which most tensors fit, in the order of the file."""
    votes = Counter()
    for name, original in renamed.items():
        cut = 0
        while True:
            rest = name[cut:]
            if rest in inside and is_counted(rest) and shapes[original] == inside[rest]:
                votes[name[:cut]] += 1
            cut = name.find('.', cut) + 1
            if not cut:
                break
    most = max(votes.values(), default=0)
    return [prefix for prefix, count in votes.items() if count == most] or ['']
