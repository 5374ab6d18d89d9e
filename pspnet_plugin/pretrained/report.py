"""What became of every tensor when weights were loaded into a module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ..utils.text import shortened, table_as_text
from .match.plan import LoadPlan
from .match.search import is_counted

GROUPS = ('loaded', 'adapted', 'missing', 'mismatched', 'reinitialized', 'unexpected')


@dataclass(frozen=True)
class LoadReport:
    """One load, tensor by tensor. Names are the module's, in ``unexpected`` the checkpoint's.

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
        reinitialized: classifiers that stay as the module initialized them, and why; not in the
            coverage.
        unexpected: tensors of the checkpoint that went nowhere.
        notes: what a reader should know beyond that.
        stages: how many tensors of each group a stage has, in the order of the module.
        received: how many of the module's tensors have a value from the checkpoint.
        expected: how many of them should have one.
        meta: what the checkpoint of an OpenMMLab run says of itself; not in :meth:`as_dict`.
    """

    reference: str
    path: str
    sha256: str
    module: str
    conversion: str
    prefix: str
    module_prefix: str
    container: str
    loaded: list[str]
    adapted: dict[str, str]
    missing: list[str]
    mismatched: dict[str, list]
    reinitialized: dict[str, str]
    unexpected: list[str]
    notes: list[str]
    stages: dict[str, dict[str, int]]
    received: int
    expected: int
    meta: dict[str, Any]

    @property
    def coverage(self) -> float:
        """Share of the module's tensors that received a value, 0 to 1."""
        return self.received / self.expected if self.expected else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain values, for JSON."""
        names = [field.name for field in fields(self) if field.name != 'meta']
        return {**{name: getattr(self, name) for name in names}, 'coverage': self.coverage}

    def __str__(self) -> str:
        """Where the weights come from, a table by stages, and what is not plain."""
        taken = self.container and f'{self.container}: '
        added = self.module_prefix and f' -> {self.module_prefix!r}'
        lines = [
            f'Pretrained weights of {self.module} from {self.reference}',
            f'file {self.path}',
            f'sha256 {self.sha256}',
            f'conversion {self.conversion}, prefix {taken}{self.prefix!r}{added}',
            _table(self.stages),
            f'coverage {self.coverage:.2%}: {self.received} of {self.expected} tensors',
            *_remarks(self),
        ]
        return '\n'.join(lines)


def report_on(
    plan: LoadPlan,
    reference: str,
    path: Path,
    sha256: str,
    module: str,
    meta: dict[str, Any],
    notes: Sequence[str],
) -> LoadReport:
    """The report of a load that is carried out, or refused, as planned."""
    return LoadReport(
        reference=reference,
        path=str(path),
        sha256=sha256,
        module=module,
        conversion=plan.match.conversion,
        prefix=plan.match.prefix,
        module_prefix=plan.match.module_prefix,
        container=plan.match.container,
        **{group: getattr(plan, group) for group in GROUPS},
        notes=list(notes),
        stages=_stages(plan),
        received=plan.received,
        expected=plan.expected,
        meta=meta,
    )


def _stages(plan: LoadPlan) -> dict[str, dict[str, int]]:
    group_of = {name: group for group in GROUPS[:-1] for name in getattr(plan, group)}
    stages: dict[str, Counter] = {}
    for name in filter(is_counted, plan.own):
        stage = _stage(name, plan.match.module_prefix)
        stages.setdefault(stage, Counter())[group_of[name]] += 1
    for name in plan.unexpected:
        stages.setdefault(_stage(name, plan.match.prefix), Counter())['unexpected'] += 1
    return {stage: dict(counts) for stage, counts in stages.items()}


def _stage(name: str, prefix: str) -> str:
    parts = name.removeprefix(prefix).split('.')
    # A whole model has its stages one level down.
    deep = parts[0].endswith(('backbone', 'head')) and len(parts) > 2
    return '.'.join(parts[:2]) if deep else parts[0]


def _table(stages: dict[str, dict[str, int]]) -> str:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column('stage')
    for group in GROUPS:
        table.add_column(group, justify='right')
    for stage, counts in stages.items():
        table.add_row(stage, *(str(counts.get(group, '')) for group in GROUPS))
    return table_as_text(table)


def _remarks(report: LoadReport) -> list[str]:
    """One line for tensors with the same story, and the notes."""
    stories: dict[str, list[str]] = {}
    for name, story in {**report.adapted, **report.reinitialized}.items():
        stories.setdefault(story, []).append(name)
    told = [f'{", ".join(names)}: {story}' for story, names in stories.items()]
    without = {'missing': report.missing, 'mismatched': list(report.mismatched)}
    told += [f'{what}: {shortened(names)}' for what, names in without.items() if names]
    return told + [f'note: {note}' for note in report.notes]
