"""The settings of a load: one dataclass for the initializer, the hook and ``load_pretrained``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..utils.text import did_you_mean
from .errors import PretrainedWeightsError
from .match.adapt import SOURCES, channels_of
from .match.conversions import BY_NAME


@dataclass(frozen=True)
class LoadSettings:
    """Where weights come from and how they are fitted to a module.

    Args:
        checkpoint: a path (``.pth``, ``.pt``, ``.safetensors``) or a reference:
            ``http(s)://``, ``torchvision://``, ``timm://``, ``open-mmlab://``, ``mmseg://``,
            ``hf://``, ``package://``.
        prefix: take only names that begin so, without it; found by itself where it is None.
        conversion: name of a conversion of key names, ``'auto'`` to find the one that fits.
        key_map: pairs of a regular expression and its replacement, applied to the names in the file
            before anything else; the replacement None leaves tensors out.
        first_conv: what to do where the module has other input channels than RGB: ``'adapt'``,
            ``'error'`` or ``dict(channels=['R', 'G', 'B', 'mean'])``, see
            :func:`match.adapt.adapt_to_channels`.
        min_coverage: share of the module's tensors that must receive a value, 0 to 1. None asks for
            99 % of them, for running statistics, and for every one of two or more dimensions, not
            all of it zeros: no layer is left at random.
        sha256: the hash that the file must have, or its first digits, 8 or more.
        trust_pickle: read a file that holds more than data, although that can run its code.
        classes: ``'by_name'`` copies the rows of a classifier for the classes that both have.
        class_names: the module's classes in their order, for ``classes='by_name'``.

    Raises:
        PretrainedWeightsError: a setting has a wrong type or value.
    """

    checkpoint: str = ''
    prefix: str | None = None
    conversion: str = 'auto'
    key_map: Sequence | None = None
    first_conv: str | Mapping[str, Any] = 'adapt'
    min_coverage: float | None = None
    sha256: str | None = None
    trust_pickle: bool = False
    classes: str | None = None
    class_names: Sequence[str] | None = None

    @classmethod
    def of(cls, owner: str, others: Sequence[str] = (), **given: Any) -> LoadSettings:
        """The settings that ``owner`` was given by name, which has ``others`` besides."""
        known = [*(field.name for field in fields(cls)), *others]
        for name in given:
            if name not in known:
                way_out = did_you_mean(name, known, 1) or f' It has {", ".join(known)}.'
                raise PretrainedWeightsError(f'{owner} has no setting {name!r}.{way_out}')
        return cls(**given)

    def __post_init__(self) -> None:
        if type(self.sha256) is int:
            # --cfg-options reads a hash of decimal digits alone as an integer.
            object.__setattr__(self, 'sha256', str(self.sha256))
        for field in fields(self):
            value = getattr(self, field.name)
            is_good, way_out = WANTED[field.name]
            if not is_good(value) and (value is not None or field.default is not None):
                raise PretrainedWeightsError(
                    f'{field.name}={value!r} is not understood. Use {way_out}.'
                )
        object.__setattr__(self, 'checkpoint', str(self.checkpoint))

    @property
    def rows_by_name(self) -> Sequence[str] | None:
        """The classes whose rows are copied by name; None where rows are no matter of names."""
        return (self.class_names or ()) if self.classes == 'by_name' else None


def _is_rule(pair: Any) -> bool:
    kinds = [type(part) for part in pair] if isinstance(pair, (list, tuple)) else []
    if kinds not in ([str, str], [str, type(None)]):
        return False
    try:
        re.sub(pair[0], pair[1] or '', '')
    except (re.error, IndexError):  # a replacement may name a group that is not there
        return False
    return True


# What is good for each setting, where it is not None, and what to give instead of something else.
WANTED: dict[str, tuple[Callable[[Any], Any], str]] = {
    'checkpoint': (
        lambda value: value and isinstance(value, (str, os.PathLike)),
        'a file, or a reference such as torchvision://resnet50',
    ),
    'prefix': (lambda value: isinstance(value, str), 'text'),
    'conversion': (
        lambda value: value in ('auto', *BY_NAME),
        f'"auto" or one of {", ".join(BY_NAME)}',
    ),
    'key_map': (
        lambda value: isinstance(value, (list, tuple)) and all(map(_is_rule, value)),
        'a list of pairs (regular expression, replacement), such as '
        "[(r'^net\\.', '')], with None to leave tensors out",
    ),
    'first_conv': (
        lambda value: value in ('adapt', 'error') or channels_of(value) is not None,
        f'"adapt", "error" or dict(channels=[...]) with one of {", ".join(SOURCES)} for each input '
        'channel',
    ),
    'min_coverage': (
        lambda value: (
            isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
        ),
        'None or a share from 0 to 1, such as 0.9',
    ),
    'sha256': (
        lambda value: isinstance(value, str) and re.fullmatch(r'[0-9A-Fa-f]{8,64}', value),
        'its 64 hexadecimal digits, or the first 8 or more',
    ),
    'trust_pickle': (lambda value: isinstance(value, bool), 'True or False'),
    'classes': (lambda value: value == 'by_name', "None or 'by_name'"),
    'class_names': (
        lambda value: isinstance(value, (list, tuple)) and all(isinstance(n, str) for n in value),
        'a list of names',
    ),
}
