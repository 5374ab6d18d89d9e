"""Time and peak memory of the variants of a step, by turns, and the table of them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Callable, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.autograd.profiler import profile
from torch.utils.benchmark import Measurement, Timer

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.speed.memory import keep_freed_memory
from pspnet_plugin.utils.text import first_line

from .settings import Settings

Step = Callable[[], object]
# M_MMAP_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's mallopt(3): what a process has that
# has freed large blocks.
GLIBC_DEFAULTS = ((-4, 65536), (-3, 32 << 20), (-1, 64 << 20))


class Case(NamedTuple):
    """Variants of one step, which become rows beside each other.

    ``build`` makes the steps by their descriptions, stock's first. A step returns what it computes;
    label maps, which are tensors of integers, are compared with stock's.
    """

    label: str
    sub_label: str
    build: Callable[[], dict[str, Step]]
    keeping: tuple[str, ...] = ()  # the steps that run with freed memory kept


class Row(NamedTuple):
    """What was measured of one variant."""

    time: Measurement
    memory: int  # bytes; 0 where nothing is torch's
    equal_labels: float | None  # percent that are stock's; None where no labels are predicted


def measure_cases(cases: Iterable[Case], settings: Settings, failures: list[str]) -> list[Row]:
    """The rows of all cases; those that fail add a line to ``failures``, and the rest goes on."""
    rows = []
    for case in cases:
        try:
            rows += measure(case, settings)
        except PspnetPluginError:  # of a config
            raise
        except Exception as error:  # no memory, sizes that do not fit, what a compiler raises
            failures.append(f'{case.label}, {case.sub_label} failed: {first_line(error)}')
    return rows


def measure(case: Case, settings: Settings) -> list[Row]:
    """A row for each variant: first memory, then time in the order A B C A B C ..."""
    threads = torch.get_num_threads()
    labels = {'label': case.label, 'sub_label': case.sub_label, 'num_threads': threads}
    steps = case.build()
    outputs, memory, timers = {}, {}, {}
    for name, step in steps.items():
        outputs[name] = step()  # compiles, chooses kernels and fills caches
        memory[name] = peak_memory(step, settings)
        timers[name] = Timer('step()', globals={'step': step}, description=name, **labels)
    turns: dict[str, list[Measurement]] = {name: [] for name in steps}
    title, console = f'{case.label}, {case.sub_label}', Console(stderr=True)
    for _ in track(range(settings.runs), title, console=console, transient=True):
        for name, timer in timers.items():
            set_kept_memory(name in case.keeping)
            # Runs the step at least twice; the first time, which does not count, fills new memory.
            turns[name].append(timer.blocked_autorange())
    set_kept_memory(False)
    stock = next(iter(outputs.values()))
    equal = (share_equal(output, stock) for output in outputs.values())
    return list(map(Row, map(merged, turns.values()), memory.values(), equal))


def merged(times: list[Measurement]) -> Measurement:
    return Measurement.merge(times)[0]


def peak_memory(step: Step, settings: Settings) -> int:
    """The most bytes that torch's allocator has given out within a step, above those before it."""
    if settings.on_gpu:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as profiled:
        step()
    held = peak = 0
    for event in profiled.kineto_results.events():  # in the order of time
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def share_equal(labels: object, stock: object) -> float | None:
    """Percent of the pixels that have stock's label; None for what is no label map."""
    if not (isinstance(labels, Tensor) and isinstance(stock, Tensor)) or labels.is_floating_point():
        return None
    return 100 * (labels == stock).double().mean().item()


def set_kept_memory(kept: bool) -> None:
    """Switch what ``KeepMemoryHook`` sets for the process on, or off again."""
    if kept:
        keep_freed_memory()
        return
    library = ctypes.CDLL(None)
    if hasattr(library, 'mallopt'):
        for parameter, value in GLIBC_DEFAULTS:
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def tabulate(rows: Sequence[Row], markdown: bool = False) -> Table:
    """A line for each row, with its ratios to stock, the first row of the same sub_label."""
    table = Table('measured', 'variant', box=box.MARKDOWN if markdown else box.HEAVY_HEAD)
    for name in ('median', 'min to max', 'beside stock', 'peak memory', 'beside stock'):
        table.add_column(name, justify='right')
    predicted = any(row.equal_labels is not None for row in rows)
    if predicted:
        table.add_column('labels equal to stock', justify='right')
    stocks: dict[str, Row] = {}
    for row in rows:
        time, memory, equal = row
        case = f'{time.label}, {time.sub_label}'
        stock = stocks.setdefault(case, row)
        speed = f'{stock.time.median / time.median:.2f} x as fast' if row is not stock else ''
        ratio = f'{memory / stock.memory:.2f} x' if row is not stock and stock.memory else ''
        cells = [seconds(time.median), f'{seconds(min(time.times))} to {seconds(max(time.times))}']
        cells += [speed, megabytes(memory), ratio]
        if predicted:
            cells.append('' if equal is None else f'{equal:.4f} %')
        table.add_row(case, time.description, *cells)
    return table


def seconds(value: float) -> str:
    return f'{value:.2f} s' if value >= 1 else f'{value * 1e3:.4g} ms'


def megabytes(value: int) -> str:
    return '' if not value else f'{value / 1e6:,.{0 if value >= 1e7 else 2}f} MB'
