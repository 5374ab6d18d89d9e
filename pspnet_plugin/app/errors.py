"""What can be wrong with a folder of images and one of masks."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import PspnetPluginError

SHOWN = 20


class DataError(PspnetPluginError):
    """Images and masks cannot be used as they are; the message has one line for each problem."""


def refuse(problems: Sequence[str]) -> None:
    """Raise DataError where there are problems, each a line with the file's name."""
    if not problems:
        return
    more = len(problems) - SHOWN
    lines = [*problems[:SHOWN], *([f'and {more} more'] if more > 0 else [])]
    raise DataError('\n       '.join(lines))
