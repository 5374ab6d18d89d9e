"""What can be wrong with a folder of images and one of masks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import PspnetPluginError
from ..utils.text import shortened

SHOWN = 20  # lines
FEW = 3  # lines that say the same and are told one by one
# A name, which a data loader may stand before, and what is said of it.
NAME_AND_REASON = re.compile(r'^((?:\w+_dataloader: )?.*?)(: .*|$)', re.DOTALL)


class DataError(PspnetPluginError):
    """Images and masks cannot be used as they are; the message has one line for each problem."""


def refuse(problems: Sequence[str]) -> None:
    """Raise DataError where there are problems, each a line with the file's name."""
    if not problems:
        return
    told = together(problems)
    more = len(told) - SHOWN
    lines = [*told[:SHOWN], *([f'and {more} more'] if more > 0 else [])]
    raise DataError('\n       '.join(lines))


def together(problems: Sequence[str]) -> list[str]:
    """Lines ``NAME: what is wrong``; of many that say the same the first, with the other names."""
    named: dict[str, list[str]] = {}
    for line in problems:
        name, reason = NAME_AND_REASON.findall(line)[0]
        named.setdefault(reason, []).append(name)
    told = []
    for reason, names in named.items():
        if len(names) > FEW:
            names, reason = names[:1], f'{reason} (also {shortened(names[1:], FEW - 1)})'
        told += [name + reason for name in names]
    return told
