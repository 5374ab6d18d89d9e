"""The settings of a load: one dataclass for the initializer, the hook and ``load_pretrained``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..text import did_you_mean
from .errors import PretrainedWeightsError
from .match.conversions import conversion_named
from .match.input_channels import SOURCES, channels_of


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
            :func:`match.input_channels.adapt_to_channels`. ``bands`` means the same as
            ``channels``.
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

    checkpoint: str
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
        """The settings that ``owner`` was given by name; ``others`` are further names that it has.

        Raises:
            PretrainedWeightsError: a name is none of a setting.
        """
        known = [*(field.name for field in fields(cls)), *others]
        for name in given:
            if name not in known:
                way_out = did_you_mean(name, known, 1) or f' It has {", ".join(known)}.'
                raise PretrainedWeightsError(f'{owner} has no setting {name!r}.{way_out}')
        if not given.get('checkpoint'):
            raise PretrainedWeightsError(
                f'{owner} needs a checkpoint: a file, or a reference such as '
                'torchvision://resnet50.'
            )
        return cls(**given)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'sha256', _hash(self.sha256))
        wanted = {
            'checkpoint': (isinstance(self.checkpoint, (str, os.PathLike)), 'text'),
            'prefix': (self.prefix is None or isinstance(self.prefix, str), 'text'),
            'trust_pickle': (isinstance(self.trust_pickle, bool), 'True or False'),
            'classes': (self.classes in (None, 'by_name'), "None or 'by_name'"),
            'class_names': (_are_names(self.class_names), 'a list of names'),
            'min_coverage': (
                _is_share(self.min_coverage),
                'None or a share from 0 to 1, such as 0.9',
            ),
            'first_conv': (
                self.first_conv in ('adapt', 'error') or channels_of(self.first_conv) is not None,
                f'"adapt", "error" or dict(channels=[...]) with one of {", ".join(SOURCES)} for '
                'each input channel',
            ),
        }
        for name, (good, way_out) in wanted.items():
            _require(good, name, getattr(self, name), way_out)
        object.__setattr__(self, 'checkpoint', str(self.checkpoint))
        conversion_named(self.conversion)
        _check_key_map(self.key_map)


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise PretrainedWeightsError(f'{name}={value!r} is not understood. Use {wanted}.')


def _hash(sha256: object) -> str | None:
    # --cfg-options reads a hash of decimal digits alone as an integer.
    if isinstance(sha256, int) and not isinstance(sha256, bool):
        sha256 = str(sha256)
    if sha256 is None or (isinstance(sha256, str) and re.fullmatch(r'[0-9A-Fa-f]{8,64}', sha256)):
        return sha256
    raise PretrainedWeightsError(
        f'sha256={sha256!r} is no hash: give its 64 hexadecimal digits, or the first 8 or more.'
    )


def _is_share(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (is_number and 0 <= value <= 1)  # type: ignore[operator]


def _are_names(value: object) -> bool:
    names = value if isinstance(value, (list, tuple)) else [value]
    return value is None or (names is value and all(isinstance(name, str) for name in names))


def _check_key_map(key_map: object) -> None:
    if key_map is None:
        return
    for pair in key_map if isinstance(key_map, (list, tuple)) else [key_map]:
        kinds = [type(part) for part in pair] if isinstance(pair, (list, tuple)) else []
        if kinds not in ([str, str], [str, type(None)]):
            raise PretrainedWeightsError(
                f'key_map: {pair!r} is no pair of texts. Give a list of pairs (pattern, '
                "replacement), such as [(r'^net\\.', '')], with None to leave tensors out."
            )
