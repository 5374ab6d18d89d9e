"""Tables of classes: a user's own, and as tools write them beside their masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ...errors import DataError
from ..masks import Value

IGNORED = 255
TABLES = {'labelmap.txt': 'VOC', 'class_dict.csv': 'CamVid', '_classes.csv': 'Roboflow'}
BORDER = (224, 224, 192)  # around the objects of VOC, without a class
OF_LABELMAP = re.compile(r'(.+):(\d+),(\d+),(\d+):[^:]*:[^:]*')  # name : colour : parts : actions
VALUE_FIRST = re.compile(r'\s*(\d+)\s*,(.+)')
NAME_FIRST_HEADER = re.compile(r'\W*(class|label|name)s?\W+r(ed)?\W+g(reen)?\W+b(lue)?\W*', re.I)
VALUE_FIRST_HEADER = re.compile(r'\W*(pixel )?value\W+(class|name)\W*', re.I)


class Table(NamedTuple):
    """What a table of classes says, see :func:`read_table`."""

    classes: dict[str, Value]  # their names and values
    ignored: list[Value]

    @property
    def in_colours(self) -> bool:
        """Whether the values are colours."""
        return any(len(value) == 3 for value in self.classes.values())


def read_table(path: Path) -> Table:
    """Names and values of classes: lines ``NAME VALUE`` or ``NAME RED GREEN BLUE``, or as tools
    write them: VOC's ``labelmap.txt``, ``class_dict.csv``, Roboflow's ``_classes.csv``.

    A name may have blanks. Lines that begin with the name ``ignored`` are for values without a
    class. Commas count as spaces; empty lines and those that begin with ``#`` are left out.

    Raises:
        DataError: the file cannot be read, or one of its lines.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f'{path}: is no UTF-8 ({error}); save it so') from error
    except OSError as error:
        raise DataError(f'{path}: cannot be read ({error.strerror})') from error
    table = Table({}, [])
    for number, line in enumerate(lines, 1):
        if not line.strip(' ,\t') or line.lstrip().startswith('#') or is_header(line):
            continue
        entry = entry_of_tool(line, lines[0]) or name_and_value(line)
        if entry is None:
            raise DataError(
                f'{path}: line {number} is not NAME VALUE or NAME RED GREEN BLUE: {line}'
            )
        name, value = entry
        if name in table.classes or value in (*table.classes.values(), *table.ignored):
            raise DataError(f'{path}: line {number} repeats a name or a value: {line}')
        if name == 'ignored':
            table.ignored.append(value)
        else:
            table.classes[name] = value
    if len({len(value) for value in (*table.classes.values(), *table.ignored)}) > 1:
        raise DataError(f'{path}: either all lines have one value, or all have three')
    if not 0 < len(table.classes) <= IGNORED:
        count = len(table.classes) or 'no'
        raise DataError(f'{path}: names {count} classes; label maps hold 1 to {IGNORED}')
    if path.name == 'labelmap.txt' and BORDER not in table.classes.values():
        table.ignored.append(BORDER)
    if not table.in_colours and (IGNORED,) not in table.classes.values():
        table.ignored.append((IGNORED,))
    return table


def name_and_value(line: str) -> tuple[str, Value] | None:
    """What a line of a table says; None where that is not clear."""
    name, _, after = line.partition(',')
    numbers = after.replace(',', ' ').split()
    if not are_value(numbers):  # no name before a comma: all before the numbers at the end
        words = line.replace(',', ' ').split()
        start = 1 + max((n for n, word in enumerate(words) if not is_number(word)), default=0)
        name, numbers = ' '.join(words[:start]), words[start:]
    is_clear = name.strip() and are_value(numbers)
    return (name.strip(), tuple(map(int, numbers))) if is_clear else None


def are_value(words: Sequence[str]) -> bool:
    """Whether they are one number, or a colour."""
    return len(words) in (1, 3) and all(map(is_number, words))


def is_number(word: str) -> bool:
    """Whether a word is a whole number."""
    return word.removeprefix('-').isdecimal()


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
