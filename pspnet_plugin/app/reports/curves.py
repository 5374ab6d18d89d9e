"""The curves of one or several training runs, and what was frozen when, as an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import PspnetPluginError
from ...freezing.preview import Preview, draw_timeline, freezes_layers, preview
from ...utils.text import one_line
from .run_log import LogError, Run

CURVES = {'loss': 'loss', 'mIoU': 'mIoU (%)', 'lr': 'learning rate'}
STYLES = '-', '--', ':', '-.'


def draw_runs(runs: Sequence[Run], path: Path) -> None:
    """Draw loss, mIoU and learning rate of runs, and below them which of them froze what.

    The learning rate is the logged one, which is that of the first parameter group. Runs with a
    ``LayerFreezeHook`` or a ``paramwise_cfg`` have a timeline of the learning rate in each part of
    the model, grey where it is frozen, computed from their config.

    Raises:
        LogError: the config of a run cannot be read.
        PspnetPluginError: the image cannot be written there.
    """
    from matplotlib.figure import Figure

    curves = {key: label for key, label in CURVES.items() if any(run.values(key) for run in runs)}
    timelines = {run.name: found for run in runs if (found := timeline_of(run)) is not None}
    heights = [2.4] * len(curves) + [0.9 + 0.3 * len(t.parts) for t in timelines.values()]
    figure = Figure(figsize=(9, sum(heights)), layout='constrained')
    rows = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights}
    )[:, 0]
    for axes, (key, label) in zip(rows, curves.items()):
        draw_curves(axes, runs, key, label)
    rows[0].legend(loc='upper right')
    for axes, (name, shown) in zip(rows[len(curves) :], timelines.items()):
        draw_timeline(axes, shown)
        axes.set_title(f'{name}: learning rate by part, grey is frozen', fontsize='medium')
    rows[-1].set(xlabel='iteration', xlim=(0, max(run.lines[-1]['step'] for run in runs)))
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise PspnetPluginError(f'{path} cannot be written: {error}') from error


def draw_curves(axes: Any, runs: Sequence[Run], key: str, label: str) -> None:
    """One logged value of several runs over the iterations."""
    for number, run in enumerate(runs):
        values = run.values(key)
        style, marker = STYLES[number % len(STYLES)], 'o' if len(values) < 30 else ''
        axes.plot(
            list(values), list(values.values()), style, marker=marker, markersize=3, label=run.name
        )
    axes.set_ylabel(label)


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
