"""Words and tables for messages and logs, and what is kept out of them."""

from __future__ import annotations

import contextlib
import difflib
import io
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

# What moves the cursor or sets colours, by its escape sequence; all but ends of lines and tabs.
CONTROLS = {n: f'\\x{n:02x}' for n in (*range(32), *range(127, 160)) if chr(n) not in '\n\t'}


@contextlib.contextmanager
def without_warnings_of_mmseg() -> Iterator[None]:
    """Within this context MMSegmentation's heads print no warnings about their losses."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', module=r'mmseg\.')
        yield


def printable(text: object) -> str:
    """What a terminal shows as it stands, whatever names of files and classes are in it."""
    return str(text).translate(CONTROLS)


def table_as_text(table: Table, width: int = 120) -> str:
    """A table as plain lines without colours, as a log file wants it.

    What stands in its cells is shown as it is: brackets are no markup, and colons no emoji. Borders
    are those that the terminal can show.
    """
    encoding = getattr(sys.stdout, 'encoding', None) or 'utf-8'
    with io.TextIOWrapper(io.BytesIO(), encoding, 'backslashreplace') as file:
        console = Console(file=file, width=width, color_system=None, markup=False, emoji=False)
        console.print(table)
        file.seek(0)
        return printable('\n'.join(line.rstrip() for line in file if line.strip()))


def near_misses(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The names in ``known`` that are spelt most like ``name``, best first; at most ``count``."""
    return difflib.get_close_matches(name, [other for other in known if other != name], count)


def did_you_mean(name: str, known: Iterable[str], count: int = 3) -> str:
    """``' Did you mean A or B?'``, or nothing where no known name is near."""
    near = near_misses(name, known, count)
    return f' Did you mean {" or ".join(near)}?' if near else ''


def shortened(names: Sequence[str], shown: int = 3) -> str:
    """The first names of many, and how many more there are."""
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more


def one_line(error: BaseException) -> str:
    """The class of an error and all that it says, in one line."""
    return f'{type(error).__name__}: {" ".join(str(error).split())}'


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip()


def first_cause(error: Exception) -> str:
    """What first went wrong, without the pages that exporters add."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error)[:200].rstrip('.')


def next_steps(*commands: Sequence[object]) -> str:
    """What to type next: words of ``pspnet`` for each line, quoted for the shell."""
    lines = [shlex.join(['pspnet', *map(str, words)]) for words in commands]
    return '\n'.join(f'{"" if number else "next:":<8} {line}' for number, line in enumerate(lines))
