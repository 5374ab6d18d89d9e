"""What became of every tensor when weights were loaded into a module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table

from ..utils.text import shortened, table_as_text
from .match.plan import LoadPlan
from .match.search import is_counted

COLUMNS = ('loaded', 'adapted', 'missing', 'mismatched', 'own start', 'left over')


@dataclass(frozen=True)
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
        stages: how many tensors of each group a stage has, in the order of the module.
        received: how many of the module's tensors have a value from the checkpoint.
        expected: how many of them should have one.
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
    own_start: dict[str, str]
    left_over: list[str]
    notes: list[str]
    stages: dict[str, dict[str, int]]
    received: int
    expected: int

    @property
    def coverage(self) -> float:
        """Share of the module's tensors that received a value, 0 to 1."""
        return self.received / self.expected if self.expected else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Everything above as plain values, for JSON."""
        return {**asdict(self), 'coverage': self.coverage}

    def __str__(self) -> str:
        return render(self)


def report_on(
    plan: LoadPlan, reference: str, path: str, sha256: str, module: str, notes: Sequence[str]
) -> LoadReport:
    """The report of a load that is carried out, or refused, as planned."""
    return LoadReport(
        reference=reference,
        path=path,
        sha256=sha256,
        module=module,
        conversion=plan.match.conversion,
        prefix=plan.candidates.prefix + plan.match.prefix,
        module_prefix=plan.match.module_prefix,
        container=plan.candidates.container,
        loaded=list(plan.named('loaded')),
        adapted=plan.named('adapted'),
        missing=list(plan.named('missing')),
        mismatched=plan.named('mismatched'),
        own_start=plan.named('own start'),
        left_over=plan.left_over,
        notes=list(notes),
        stages=_stages(plan),
        received=plan.received,
        expected=plan.expected,
    )


def _stages(plan: LoadPlan) -> dict[str, dict[str, int]]:
    stages: dict[str, Counter] = {}
    for name, outcome in plan.outcomes.items():
        if is_counted(name):
            stage = _stage(name, plan.match.module_prefix)
            stages.setdefault(stage, Counter())[outcome.group] += 1
    for name in plan.left_over:
        stage = _stage(name, plan.candidates.prefix + plan.match.prefix)
        stages.setdefault(stage, Counter())['left over'] += 1
    return {stage: dict(counts) for stage, counts in stages.items()}


def _stage(name: str, prefix: str) -> str:
    parts = name.removeprefix(prefix).split('.')
    # A whole model has its stages one level down.
    deep = parts[0].endswith(('backbone', 'head')) and len(parts) > 2
    return '.'.join(parts[:2]) if deep else parts[0]


def render(report: LoadReport) -> str:
    """The report as text: where the weights come from, a table by stages, and what is not plain."""
    taken = report.container and f'{report.container}: '
    added = report.module_prefix and f' -> {report.module_prefix!r}'
    lines = [
        f'Pretrained weights of {report.module} from {report.reference}',
        f'file {report.path}',
        f'sha256 {report.sha256}',
        f'conversion {report.conversion}, prefix {taken}{report.prefix!r}{added}',
        _table(report),
        f'coverage {report.coverage:.2%}: {report.received} of {report.expected} tensors',
        *_remarks(report),
    ]
    return '\n'.join(lines)


def _table(report: LoadReport) -> str:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column('stage')
    for column in COLUMNS:
        table.add_column(column, justify='right')
    for stage, counts in report.stages.items():
        table.add_row(stage, *(str(counts.get(column, '')) for column in COLUMNS))
    return table_as_text(table)


def _remarks(report: LoadReport) -> list[str]:
    """One line for tensors with the same story, and the notes."""
    stories: dict[str, list[str]] = {}
    for name, story in {**report.adapted, **report.own_start}.items():
        stories.setdefault(story, []).append(name)
    told = [f'{", ".join(names)}: {story}' for story, names in stories.items()]
    without = {'missing': report.missing, 'mismatched': list(report.mismatched)}
    told += [f'{what}: {shortened(names)}' for what, names in without.items() if names]
    return told + [f'note: {note}' for note in report.notes]
