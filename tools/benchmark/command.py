"""The command line of the benchmarks: ``pspnet benchmark NAME``.

Ratios are to stock in the same run; peak memory is what a step gets above what was held before.
"""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import product
from threading import Timer
from typing import Any, Callable

from rich.console import Console

from . import counting, heads, networks
from .measuring import DEVICES, Case, Settings, measure_cases, tabulate

SECONDS = 450  # after which a GPU's benchmark is interrupted: one network may compile for minutes
R50 = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
SIZES = ((64, 128), (97, 97), (32, 32))
HOW = dict(device=DEVICES[0], dtype='float32', channels_last=False, compile=False, runs=3)
GPU = dict(device=DEVICES[0], crop=(512, 1024), sizes=SIZES[:1], runs=1)


def gpu_cases(settings: Settings) -> Iterator[Case]:
    """Heads, loss, training, prediction in each precision and memory format; the largest batch."""
    ways = [(False, dtype) for dtype in ('float16', 'float32', 'bfloat16', 'tf32')]
    for (compiled, dtype), channels_last in product([*ways, (True, 'float16')], (True, False)):
        chosen = replace(settings, dtype=dtype, channels_last=channels_last, compile=compiled)
        chosen.apply()
        for name in ('head', 'heads', 'loss', 'train', 'predict'):
            for case in BENCHMARKS[name][0](chosen):
                yield case._replace(label=f'{case.label}, {chosen.how}')


# The cases of each benchmark, and its options with their defaults.
BENCHMARKS: dict[str, tuple[Callable, dict[str, Any]]] = {
    'head': (heads.psp_cases, {'batch': 2, 'channels': 2048, 'classes': 19, 'sizes': SIZES, **HOW}),
    'heads': (heads.other_cases, {'batch': 2, 'crop': (512, 512), **HOW}),
    'loss': (heads.loss_cases, {'batch': 4, 'classes': 150, 'crop': (512, 512), **HOW}),
    'train': (networks.training_cases, {'config': R50, 'batch': 2, 'crop': (256, 512), **HOW}),
    'predict': (networks.prediction_cases, {'config': R50, 'crop': (512, 1024), **HOW}),
    'gpu': (gpu_cases, {'config': R50, **GPU}),
    'count': (counting.table_of_counts, {}),
}


def main(argv: Sequence[str]) -> int:
    """Measure what the command line asks for and print one table; 1 if a case failed."""
    options = vars(parse(argv))
    name, markdown = options.pop('benchmark'), options.pop('markdown')
    settings, failures = Settings(**options), []
    console = Console(width=1000 if markdown or not sys.stdout.isatty() else None)  # fits a row
    settings.apply()
    if name == 'gpu' and not settings.on_gpu:
        sys.exit('error: there is no GPU here: pspnet benchmark count needs none')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of mmseg's classes, the same for stock and ours
        if name == 'count':
            console.print(counting.table_of_counts(markdown))
            return 0
        how = 'as each row says' if name == 'gpu' else settings.how
        console.print(f'{settings.describe()}; {how}.', soft_wrap=True)
        end = Timer(SECONDS, signal.raise_signal, [signal.SIGINT])
        end.daemon = True
        if name == 'gpu':
            signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background
            end.start()
            for kind, parts in (('stock', ()), ('ours', networks.TRAINING)):
                label = f'Largest batch of {settings.crop_as_text} in float16, {kind}:'
                print(label, networks.largest_batch(settings, parts), flush=True)
        rows = measure_cases(BENCHMARKS[name][0](settings), settings, failures)
        end.cancel()
        if rows:
            console.print(tabulate(rows, markdown))
    sys.stderr.writelines(f'{failure}\n' for failure in failures)
    return 1 if failures else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='pspnet benchmark', description='Measure the plugin beside stock MMSegmentation.'
    )
    commands = parser.add_subparsers(dest='benchmark', metavar='NAME', required=True)
    formatter = argparse.ArgumentDefaultsHelpFormatter
    for name, (cases, defaults) in BENCHMARKS.items():
        text = {'help': cases.__doc__, 'description': cases.__doc__, 'epilog': __doc__}
        command = commands.add_parser(name, formatter_class=formatter, **text)
        for option in fields(Settings):
            if option.name in defaults:
                flag, default = f'--{option.name.replace("_", "-")}', defaults[option.name]
                command.add_argument(flag, default=default, **option.metadata)
        command.add_argument('--markdown', action='store_true', help='the table in Markdown')
    return parser.parse_args(argv)
