"""What a training run logged in its work folder, by mmengine's local backend."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ...errors import PspnetPluginError
from ...utils.text import one_line

Line = dict[str, Any]


class LogError(PspnetPluginError):
    """A folder holds no log of a training run."""


class Run(NamedTuple):
    """One run, with what it logged after it was resumed."""

    name: str  # of the work folder
    # In the order of iterations; ``step`` is the iteration, ``loss`` and ``lr`` stand in those of
    # training, the metrics in those of validations.
    lines: list[Line]
    config: Path | None  # the file with the config of the newest start; None where there is none

    def values(self, key: str) -> dict[int, float]:
        """What was logged as ``key``, by iteration."""
        return {line['step']: line[key] for line in self.lines if key in line}

    def read_config(self) -> Config | None:
        """The config of the run.

        Raises:
            LogError: it cannot be read, for instance because a module that it imports is missing.
        """
        if self.config is None:
            return None
        try:
            return Config.fromfile(self.config)
        except Exception as error:  # whatever the code in the file raises
            raise LogError(f'{self.config}: {one_line(error)}') from error


def read_run(work_dir: Path) -> Run:
    """Read the logs below a work folder.

    Each start of a run has a log of its own. A later one counts from its first iteration on, so a
    resumed run is one curve, and a run that began anew replaces the one before.

    Raises:
        LogError: there is no log, or no line with a loss in it.
    """
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))  # named by the time of the start
    if not logs:
        raise LogError(
            f'{work_dir} holds no */vis_data/scalars.json: no training run wrote its log here'
        )
    lines: list[Line] = []
    for log in logs:
        lines = continued(lines, by_iteration(read_lines(log)))
    if not any('loss' in line for line in lines):
        raise LogError(f'{logs[-1]} has no line with a loss')
    config = logs[-1].with_name('config.py')
    return Run(work_dir.resolve().name, lines, config if config.is_file() else None)


def read_lines(log: Path) -> list[Line]:
    """The lines of a log; those that a killed run left unfinished are skipped."""
    found = []
    for text in log.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get('step'), int):
            found.append(line)
    return found


def by_iteration(lines: Iterable[Line]) -> list[Line]:
    """Lines whose ``step`` is the iteration; runs by epochs log their metrics by epoch."""
    found: list[Line] = []
    for line in lines:
        last = found[-1] if found else {}
        if 'loss' not in line and 'epoch' in last and line['step'] == last['epoch']:
            line = {**line, 'step': last['step'], 'epoch': last['epoch']}
        found.append(line)
    return found


def continued(before: list[Line], after: list[Line]) -> list[Line]:
    """Two logs as one: the second counts from its first iteration on."""
    if not after:
        return before
    first = min(line['step'] for line in after)
    return [line for line in before if line['step'] < first] + after
