"""What training runs logged in their work folders, by mmengine's local backend, and its curves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from mmengine.config import Config

from ...errors import PspnetPluginError
from ...utils.text import one_line
from ..images.fonts import drawable, families_of
from .preview import Preview, draw_timeline, freezes_layers, preview

CURVES = {'loss': 'loss', 'mIoU': 'mIoU (%)', 'lr': 'learning rate'}
STYLES = '-', '--', ':', '-.'
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
        return {n['step']: n[key] for n in self.lines if isinstance(n.get(key), (int, float))}

    def read_config(self) -> Config | None:
        """The config of the run; LogError where it cannot be read."""
        if self.config is None:
            return None
        try:
            # A run wrote it from values: what looks like a variable is a name.
            kept = {'use_predefined_variables': False, 'use_environment_variables': False}
            return Config.fromfile(self.config, **kept)
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
        later = read_lines(log)
        first = min((line['step'] for line in later), default=float('inf'))
        lines = [line for line in lines if line['step'] < first] + later
    config = logs[-1].with_name('config.py')
    run = Run(work_dir.resolve().name, lines, config if config.is_file() else None)
    if not run.values('loss'):
        raise LogError(f'{logs[-1]} has no line with a loss')
    return run


def read_runs(work_dirs: Sequence[Path]) -> list[Run]:
    """Read several runs; those whose folders have one name are called by their paths."""
    runs = [read_run(work_dir) for work_dir in work_dirs]
    often = Counter(run.name for run in runs)
    named = [run.name if often[run.name] == 1 else str(path) for run, path in zip(runs, work_dirs)]
    return [run._replace(name=name) for run, name in zip(runs, named)]


def read_lines(log: Path) -> list[Line]:
    """The lines of a log, with the iteration as their ``step``.

    Lines that a killed run left unfinished are skipped. With ``log_metric_by_epoch`` the ``step``
    of metrics is the epoch, which runs by iterations leave at 0; the line before has the iteration.
    """
    found: list[Line] = []
    for text in log.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get('step'), int):
            if 'loss' not in line and found:
                line['step'] = max(line['step'], found[-1]['step'])
            found.append(line)
    return found


def runs_figure(runs: Sequence[Run]) -> Figure:
    """Loss, mIoU and learning rate of runs, and below them which of them froze what.

    The learning rate is the logged one, which is that of the first parameter group. Runs with a
    ``LayerFreezeHook`` or a ``paramwise_cfg`` have a timeline of the learning rate in each part of
    the model, grey where it is frozen, computed from their config.

    Raises:
        LogError: the config of a run cannot be read.
    """
    curves = {key: label for key, label in CURVES.items() if any(run.values(key) for run in runs)}
    names = [drawable(run.name)[0] for run in runs]
    timelines = [
        (name, shown) for name, run in zip(names, runs) if (shown := timeline_of(run)) is not None
    ]
    heights = [2.4] * len(curves) + [0.9 + 0.3 * len(shown.parts) for _, shown in timelines]
    figure = Figure(figsize=(9, sum(heights)), layout='constrained')
    rows = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights}
    )[:, 0]
    for axes, (key, label) in zip(rows, curves.items()):
        axes.set_ylabel(label)
        for number, run in enumerate(runs):
            values = run.values(key)
            style, marker = STYLES[number % len(STYLES)], 'o' if len(values) < 30 else ''
            steps, logged = list(values), list(values.values())
            axes.plot(steps, logged, style, marker=marker, markersize=3)
            validated = run.values('val_loss') if key == 'loss' else {}
            if validated:
                axes.plot(list(validated), list(validated.values()), 'o:', ms=3)
    shown_names = []
    for name, run in zip(names, runs):
        shown_names += [name, f'{name}, validation'] if run.values('val_loss') else [name]
    fonts = families_of(names)
    legend = rows[0].legend(rows[0].lines, shown_names, loc='upper right', prop={'family': fonts})
    for text in legend.get_texts():
        text.set_parse_math(False)
    for axes, (name, shown) in zip(rows[len(curves) :], timelines):
        draw_timeline(axes, shown)
        title = f'{name}: learning rate by part, grey is frozen'
        axes.set_title(title, fontsize='medium', family=fonts, parse_math=False)
    rows[-1].set(xlabel='iteration', xlim=(0, max(run.lines[-1]['step'] for run in runs)))
    return figure


def timeline_of(run: Run) -> Preview | None:
    """Learning rates by part of the model; None where all parts have the same throughout."""
    config = run.read_config()
    if config is None:
        return None
    if not freezes_layers(config):
        if not (config.get('optim_wrapper') or {}).get('paramwise_cfg'):
            return None
        hooks = config.get('custom_hooks') or []
        config.custom_hooks = [*hooks, dict(type='LayerFreezeHook')]  # which freezes nothing
    try:
        return preview(config)
    except PspnetPluginError:
        raise
    except Exception as error:  # whatever a model raises that cannot be built
        raise LogError(f'{run.config}: {one_line(error)}') from error
