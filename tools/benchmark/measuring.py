"""What a benchmark is asked for, its random inputs, time and peak memory, and the table of them."""

from __future__ import annotations

import ctypes
import gc
import platform
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch
import torch._dynamo
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
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

Size = tuple[int, int]  # height and width in pixels
BLOCK = 16  # pixels a side that share a label
IGNORED = 255
DTYPES = ('float32', 'tf32', 'float16', 'bfloat16')
DEVICES = ('cuda', 'cpu') if torch.cuda.is_available() else ('cpu',)
Step = Callable[[], object]
# M_MMAP_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's mallopt(3): what a process has that
# has freed large blocks.
GLIBC_DEFAULTS = ((-4, 65536), (-3, 32 << 20), (-1, 64 << 20))


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def size(text: str) -> Size:
    """``64x128`` -> (64, 128)."""
    height, width = map(positive, text.split('x'))
    return height, width


def option(default: Any, **argument: Any) -> Any:
    """A field, and how argparse reads it; of several values it makes a list, which has no hash."""
    return field(default=default, metadata=argument, hash='nargs' not in argument)


@dataclass(frozen=True)
class Settings:
    """The options of the command line."""

    config: str = option('', help='a stock config: a file, or mmseg::NAME')
    batch: int = option(2, type=positive, help='images or feature maps at once')
    channels: int = option(2048, type=positive, help='of the feature map')
    classes: int = option(19, type=positive, help='number of classes')
    crop: tuple = option((512, 1024), type=size, help='of the network input, HEIGHTxWIDTH')
    sizes: tuple = option((), type=size, nargs='+', help='of the feature map, HEIGHTxWIDTH each')
    device: str = option('cpu', choices=DEVICES, help='where it is computed')
    dtype: str = option('float32', choices=DTYPES, help='16-bit types run under autocast')
    channels_last: bool = option(False, action='store_true', help='memory format of ours and stock')
    compile: bool = option(False, action='store_true', help='with torch.compile')
    runs: int = option(3, type=positive, help='turns of each variant')

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def on_gpu(self) -> bool:
        return self.device == 'cuda'

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the feature maps."""
        return getattr(torch, self.dtype.replace('tf32', 'float32'))

    def autocast(self) -> AbstractContextManager:
        """Autocast to a 16-bit ``dtype``, otherwise nothing."""
        if self.torch_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device, dtype=self.torch_dtype)

    def compiled(self, function: Any) -> Callable:
        """A function or module, compiled if that is asked for."""
        return torch.compile(function, dynamic=False) if self.compile else function

    def apply(self) -> None:
        """Set what mmseg and torch keep for the whole process."""
        register_all_modules()  # and makes mmseg the default scope, which its configs rely on
        torch._dynamo.config.cache_size_limit = 256  # graphs; further ones would run uncompiled
        torch.backends.cudnn.benchmark = True  # as MMSegmentation's configs have it
        torch.backends.cudnn.allow_tf32 = self.dtype == 'tf32'
        torch.backends.cuda.matmul.allow_tf32 = self.dtype == 'tf32'

    @property
    def crop_as_text(self) -> str:
        return f'{self.crop[0]} x {self.crop[1]}'

    @property
    def how(self) -> str:
        """Precision, memory format, and whether it is compiled."""
        layout = 'channels-last' if self.channels_last else 'contiguous'
        return f'{self.dtype}, {layout}, {"compiled" if self.compile else "eager"}'

    def describe(self) -> str:
        """One line on machine, versions and method."""
        cpuinfo = Path('/proc/cpuinfo')
        found = cpuinfo.is_file() and re.search(r'model name\s*:\s*(.+)', cpuinfo.read_text())
        cpu = found.group(1) if found else platform.machine()
        machine = torch.cuda.get_device_name() if self.on_gpu else cpu
        threads = f'num_threads {torch.get_num_threads()}'
        return f'{machine}; {threads}; torch {torch.__version__}; {self.runs} turns'


def feature_map(shape: tuple[int, ...], settings: Settings, seed: int = 0) -> Tensor:
    """What a layer would give: (batch, *shape), in the dtype and memory format of the settings."""
    x = torch.randn(settings.batch, *shape, generator=torch.Generator().manual_seed(seed))
    return x.to(settings.device, settings.torch_dtype).contiguous(
        memory_format=settings.memory_format
    )


def label_maps(classes: int, settings: Settings) -> list[SegDataSample]:
    """A label map for each crop of the batch: blocks of random classes, the top rows ignored."""
    height, width = settings.crop
    blocks = settings.batch, 1, height // BLOCK + 1, width // BLOCK + 1
    labels = torch.randint(classes, blocks, generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[..., :height, :width]
    labels[..., : height // 16, :] = IGNORED
    return [SegDataSample(gt_sem_seg=PixelData(data=each)) for each in labels.to(settings.device)]


def noise(size: Size, batch: int = 1) -> Tensor:
    """Normalized images, (batch, 3, H, W), with structure at every scale."""
    generator = torch.Generator().manual_seed(0)
    cells = [2**n for n in range(1, min(size).bit_length() - 1)]
    scales = [torch.randn(batch, 3, n, 2 * n, generator=generator) / n**0.5 for n in cells]
    pixels = torch.stack([F.interpolate(each, size, mode='bicubic') for each in scales]).sum(0)
    return pixels / pixels.std()


class Case(NamedTuple):
    """Variants of one step, which become rows beside each other.

    ``build`` makes the steps by their descriptions, stock's first. A step returns what it computes;
    label maps, which are tensors of integers, are compared with stock's.
    """

    label: str
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
    try:
        for case in cases:
            try:
                rows += measure(case, settings)
            except Exception as error:  # no memory, sizes that do not fit, what a compiler raises
                if isinstance(error, PspnetPluginError) and not rows:  # of a config
                    raise
                failures.append(f'{case.label} failed: {first_line(error)}')
    except KeyboardInterrupt:  # Ctrl-C or an alarm
        failures.append(f'interrupted: what comes after these {len(rows)} rows is not measured')
    return rows


def measure(case: Case, settings: Settings) -> list[Row]:
    """A row for each variant: first memory, then time in the order A B C A B C ..."""
    gc.collect()  # models of former cases that refer to themselves
    steps = case.build()
    how = {'label': case.label, 'num_threads': torch.get_num_threads()}
    outputs, memory, timers = {}, {}, {}
    for name, step in steps.items():
        outputs[name] = step()  # compiles, chooses kernels and fills caches
        memory[name] = peak_memory(step, settings)
        timers[name] = Timer('step()', globals={'step': step}, description=name, **how)
    turns: dict[str, list[Measurement]] = {name: [] for name in steps}
    for _ in track(range(settings.runs), case.label, console=Console(stderr=True), transient=True):
        for name, timer in timers.items():
            set_kept_memory(name in case.keeping)
            # Runs the step at least twice; the first time, which does not count, fills new memory.
            turns[name].append(timer.blocked_autorange())
    set_kept_memory(False)
    rows, stock = [], next(iter(outputs.values()))
    for name, measured in turns.items():
        (time,) = Measurement.merge(measured)
        rows.append(Row(time, memory[name], share_equal(outputs[name], stock)))
    return rows


def peak_memory(step: Step, settings: Settings) -> int:
    """The most bytes that torch's allocator has given out within a step, above those before it."""
    if settings.on_gpu:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
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
    """A line for each row, with its ratios to stock, the first row of the same label."""
    table = Table('measured', 'variant', box=box.MARKDOWN if markdown else box.HEAVY_HEAD)
    for name in ('median', 'min to max', 'beside stock', 'peak memory', 'beside stock'):
        table.add_column(name, justify='right')
    predicted = any(row.equal_labels is not None for row in rows)
    if predicted:
        table.add_column('labels equal to stock', justify='right')
    stocks: dict[str, Row] = {}
    for row in rows:
        time, memory, equal = row
        stock = stocks.setdefault(time.label, row)
        speed = f'{stock.time.median / time.median:.2f} x as fast' if row is not stock else ''
        ratio = f'{memory / stock.memory:.2f} x' if row is not stock and stock.memory else ''
        cells = [seconds(time.median), f'{seconds(min(time.times))} to {seconds(max(time.times))}']
        cells += [speed, megabytes(memory), ratio]
        if predicted:
            cells.append('' if equal is None else f'{equal:.4f} %')
        table.add_row(time.label, time.description, *cells)
    return table


def seconds(value: float) -> str:
    return f'{value:.2f} s' if value >= 1 else f'{value * 1e3:.4g} ms'


def megabytes(value: int) -> str:
    return '' if not value else f'{value / 1e6:,.{0 if value >= 1e7 else 2}f} MB'
