"""All that is to be known of a GPU, in one table and about eight minutes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, product
from time import monotonic

import torch

from . import heads, networks
from .measuring import Case, Step
from .settings import Settings

SECONDS = 400  # after which nothing more begins; the largest batches take about another minute
CASES = (
    networks.training_cases,
    heads.psp_cases,
    heads.other_cases,
    heads.loss_cases,
    networks.prediction_cases,
)
DTYPES = ('float16', 'float32', 'bfloat16', 'tf32')


def gpu_cases(settings: Settings) -> Iterator[Case]:
    """Heads, loss, training, prediction in each precision and memory format; the largest batch."""
    end = monotonic() + SECONDS

    def too_late() -> dict[str, Step]:
        raise TimeoutError(f'not begun after {SECONDS} seconds')

    ways = [(False, dtype) for dtype in DTYPES]
    for (compiled, dtype), channels_last in product([*ways, (True, 'float16')], (True, False)):
        how = {'dtype': dtype, 'channels_last': channels_last, 'compile': compiled}
        chosen = replace(settings, **how)
        chosen.apply()
        for case in chain.from_iterable(cases(chosen) for cases in CASES):
            build = case.build if monotonic() < end else too_late
            yield case._replace(label=f'{case.label}, {chosen.how}', build=build)


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
