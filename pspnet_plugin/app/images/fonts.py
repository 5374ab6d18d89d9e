"""Names in pictures: in one line, with a font that has their characters."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from mmengine.logging import print_log

from ...utils.text import printable

FAMILY = 'DejaVu Sans'  # which matplotlib brings


@cache
def drawable(text: str) -> tuple[str, str]:
    """A text in one line, and the file of a font that has its characters.

    Where no installed font has them, the text is ``\\u9053`` for each that is not ASCII, and the
    log says so.
    """
    line = printable(' '.join(text.split()))
    usual = font_manager.findfont(FAMILY)
    for path in (usual, *sorted(font_manager.findSystemFonts())):
        if characters_of(path).issuperset(map(ord, line)):
            return line, path
    escaped = line.encode('ascii', 'backslashreplace').decode()
    print_log(
        f'No font on this machine has all characters of {line}: it is drawn as {escaped}. Install '
        'one that has them, such as Noto Sans CJK.',
        logger='current',
    )
    return escaped, usual


@cache
def characters_of(path: str) -> frozenset[int]:
    """The characters that a font has at any size; none for a file that is no font."""
    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def families_of(texts: Iterable[str]) -> list[str]:
    """What matplotlib's ``font.family`` is to be for these texts."""
    families = [FAMILY]
    for _, path in map(drawable, texts):
        font_manager.fontManager.addfont(path)
        families.append(FT2Font(path).family_name)
    return list(dict.fromkeys(families))
