"""What became of every tensor when weights were loaded into a module."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from .match.search import is_counted

COLUMNS = ('loaded', 'adapted', 'missing', 'mismatched', 'own start', 'left over')


def shortened(names: Sequence[str], shown: int = 3) -> str:
    """The first names of many, and how many more there are."""
    more = f' and {len(names) - shown} more' if len(names) > shown else ''
    return ', '.join(names[:shown]) + more


@dataclass
class LoadReport:
    """One load, tensor by tensor. Names are the module's, in ``left_over`` the checkpoint's.

    Attributes:
        reference: what the user wrote. ``path``: the file it led to. ``sha256``: of that file.
        module: class of the module.
        conversion: name of the layout that the checkpoint came in.
        prefix: taken off the checkpoint's names. ``module_prefix``: put in front of them.
        container: top-level key of the file that the weights stood under.
        loaded: tensors that received their value as it was.
        adapted: tensors that received a changed value, and how it was changed.
        missing: tensors that the checkpoint has nothing for.
        mismatched: tensors with a value of another shape: ``[checkpoint's, module's]``; where the
            shapes agree, the two kinds of numbers, such as ``['int8', 'float32']``.
        own_start: classifier tensors left at their initialization, and why; not in the coverage.
        left_over: tensors of the checkpoint that went nowhere.
        notes: what a reader should know beyond that.
        order: all tensors of the module, for the order of the table; not in the JSON.
    """

    reference: str
    path: str
    sha256: str
    module: str
    conversion: str = ''
    prefix: str = ''
    module_prefix: str = ''
    container: str = ''
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, list] = field(default_factory=dict)
    own_start: dict[str, str] = field(default_factory=dict)
    left_over: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list, repr=False)

    @property
    def received(self) -> int:
        """How many of the module's tensors have a value from the checkpoint."""
        return sum(is_counted(name) for name in (*self.loaded, *self.adapted))

    @property
    def expected(self) -> int:
        """How many of the module's tensors should have one."""
        return self.received + sum(is_counted(n) for n in (*self.missing, *self.mismatched))

    @property
    def coverage(self) -> float:
        """Share of the module's tensors that received a value, 0 to 1."""
        return self.received / self.expected if self.expected else 0.0

    def __str__(self) -> str:
        lines = [
            f'Pretrained weights of {self.module} from {self.reference}',
            f'file {self.path}',
            f'sha256 {self.sha256}',
            f'conversion {self.conversion}, prefix {self._prefixes()}',
            self._table(),
            f'coverage {self.coverage:.2%}: {self.received} of {self.expected} tensors',
            *self._remarks(),
        ]
        return '\n'.join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain values, for JSON."""
        values = asdict(self)
        del values['order']
        return {**values, 'coverage': self.coverage}

    def write_json(self, folder: Path) -> Path:
        """Write ``pretrained_MODULE.json`` into ``folder``; another load's is kept."""
        path = folder / f'pretrained_{self.module}.json'
        number = 1
        while path.exists():
            number += 1
            path = folder / f'pretrained_{self.module}_{number}.json'
        path.write_text(json.dumps(self.as_dict(), indent=2) + '\n', encoding='utf-8')
        return path

    def _remarks(self) -> list[str]:
        """One line for tensors with the same story, and the notes."""
        stories: dict[str, list[str]] = {}
        for name, story in {**self.adapted, **self.own_start}.items():
            stories.setdefault(story, []).append(name)
        told = [f'{", ".join(names)}: {story}' for story, names in stories.items()]
        told += [
            f'{what}: {shortened(names)}'
            for what, names in (('missing', self.missing), ('mismatched', list(self.mismatched)))
            if names
        ]
        return told + [f'note: {note}' for note in self.notes]

    def _prefixes(self) -> str:
        taken = self.container and f'{self.container}: '
        added = self.module_prefix and f' -> {self.module_prefix!r}'
        return f'{taken}{self.prefix!r}{added}'

    def _table(self) -> str:
        table = Table(box=box.SIMPLE, pad_edge=False)
        table.add_column('stage')
        for column in COLUMNS:
            table.add_column(column, justify='right')
        for stage, counts in self._stages().items():
            table.add_row(stage, *(str(counts[column] or '') for column in COLUMNS))
        text = io.StringIO()
        Console(file=text, width=120, color_system=None).print(table)
        return '\n'.join(line.rstrip() for line in text.getvalue().splitlines() if line.strip())

    def _stages(self) -> dict[str, Counter]:
        groups = (
            self.loaded,
            self.adapted,
            self.missing,
            self.mismatched,
            self.own_start,
            self.left_over,
        )
        stages = {self._stage(name, ''): Counter() for name in self.order}
        for column, names in zip(COLUMNS, groups):
            for name in filter(is_counted, names):
                stages.setdefault(self._stage(name, column), Counter())[column] += 1
        return {stage: counts for stage, counts in stages.items() if counts}

    def _stage(self, name: str, column: str) -> str:
        if column == 'left over':
            name = name[len(self.prefix) :] if name.startswith(self.prefix) else name
        else:
            name = name[len(self.module_prefix) :]
        parts = name.split('.')
        # A whole model has its stages one level down.
        deep = parts[0].endswith(('backbone', 'head')) and len(parts) > 2
        return '.'.join(parts[:2]) if deep else parts[0]
