"""Tables of classes as tools write them beside their masks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import DataError

TABLES = {'labelmap.txt': 'VOC', 'class_dict.csv': 'CamVid', '_classes.csv': 'Roboflow'}
BORDER = (224, 224, 192)  # around the objects of VOC, without a class
OF_LABELMAP = re.compile(r'(.+):(\d+),(\d+),(\d+):[^:]*:[^:]*')  # name : colour : parts : actions
VALUE_FIRST = re.compile(r'\s*(\d+)\s*,(.+)')
NAME_FIRST_HEADER = re.compile(r'\W*(class|label|name)s?\W+r(ed)?\W+g(reen)?\W+b(lue)?\W*', re.I)
VALUE_FIRST_HEADER = re.compile(r'\W*(pixel )?value\W+(class|name)\W*', re.I)


def is_header(line: str) -> bool:
    """Whether a line names columns."""
    return bool(NAME_FIRST_HEADER.fullmatch(line) or VALUE_FIRST_HEADER.fullmatch(line))


def entry_of_tool(line: str, header: str) -> tuple[str, tuple[int, ...]] | None:
    """The name and the value or colour in a line of a tool's table; None for another table.

    Args:
        header: the first line of the file.
    """
    if found := OF_LABELMAP.fullmatch(line.strip()):
        return found[1].strip(), tuple(map(int, found.groups()[1:]))
    if VALUE_FIRST_HEADER.fullmatch(header) and (found := VALUE_FIRST.fullmatch(line)):
        return found[2].strip(), (int(found[1]),)
    return None


def find_table(folders: Iterable[Path]) -> Path | None:
    """The table of a tool in the first of these folders that has one, or in those right below it.

    Raises:
        DataError: tables that differ.
    """
    for folder in folders:
        for name in TABLES:
            found = (
                [folder / name] if (folder / name).is_file() else sorted(folder.glob(f'*/{name}'))
            )
            others = [table for table in found if table.read_bytes() != found[0].read_bytes()]
            if others:
                raise DataError(f'{others[0]}: differs from {found[0]}; choose with --classes')
            if found:
                return found[0]
    return None
