"""All that is to be known of a GPU, in one table and about eight minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from typing import Callable

import torch

from . import heads, networks
from .measuring import Case, Row, measure_cases
from .settings import Settings

SECONDS = 400  # after which nothing more begins; the largest batches take about another minute
CASES = (
    networks.training_cases,
    heads.psp_cases,
    heads.other_cases,
    heads.loss_cases,
    networks.prediction_cases,
)


def measure_all(settings: Settings, failures: list[str]) -> tuple[list[Row], list[str]]:
    """Heads, loss, training, prediction in each precision and memory format; the largest batch."""
    end, rows = monotonic() + SECONDS, []
    settings = replace(settings, crop=(512, 1024), sizes=((64, 128),), runs=1)
    ways = [(False, dtype) for dtype in ('float16', 'float32', 'bfloat16', 'tf32')]
    for compiled, dtype in [*ways, (True, 'float16')]:
        for channels_last in (True, False):
            how = {'dtype': dtype, 'channels_last': channels_last, 'compile': compiled}
            for cases in CASES:
                chosen = replace(settings, **how)
                chosen.apply()
                try:
                    if monotonic() > end:
                        raise TimeoutError(f'not begun after {SECONDS} seconds')
                    rows += measure_cases(named(cases), chosen, failures)
                except Exception as error:  # whatever a compiler or a driver raises
                    failures.append(f'{cases.__name__}, {how}, failed: {error}')
    lines = [
        f'Largest batch of 512 x 1024 in float16, {name}: {largest_batch(settings, parts)}'
        for name, parts in (('stock', ()), ('ours', networks.TRAINING))
    ]
    return rows, lines


def named(cases: Callable) -> Callable[[Settings], Iterator[Case]]:
    """The cases with their settings in their labels."""

    def labelled(settings: Settings) -> Iterator[Case]:
        layout = 'channels-last' if settings.channels_last else 'contiguous'
        how = f'{settings.dtype}, {layout}, {"compiled" if settings.compile else "eager"}'
        for case in cases(settings):
            yield case._replace(label=f'{case.label}, {how}')

    return labelled


def largest_batch(settings: Settings, parts: networks.Parts) -> int:
    """The most crops with which a training step in float16 has enough memory."""
    fits, fails = 0, 256
    while fails - fits > 1:
        batch = (fits + fails) // 2
        try:
            chosen = replace(settings, dtype='float16', batch=batch)
            networks.training_step(chosen, parts)()
            fits = batch
        except torch.cuda.OutOfMemoryError:
            fails = batch
        torch.cuda.empty_cache()
    return fits
