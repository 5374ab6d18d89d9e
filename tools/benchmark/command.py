"""The command line of the benchmarks: ``pspnet benchmark NAME``.

Ratios are to stock in the same run. Peak memory is what torch's allocator gives out within a step
above what it held before: on a GPU by CUDA's counter, on a CPU by torch's profiler.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Callable

import torch
from rich.console import Console

from . import counting, gpu, heads, networks
from .measuring import measure_cases, tabulate
from .settings import DTYPES, Settings, Size

WIDTH_OF_A_FILE = 1000  # more than any row has
R50 = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
SIZES = ((64, 128), (97, 97), (32, 32))
# The cases of each benchmark, and those of OPTIONS that it has, with their defaults.
BENCHMARKS: dict[str, tuple[Callable, dict[str, Any]]] = {
    'head': (heads.psp_cases, {'batch': 2, 'channels': 2048, 'classes': 19, 'sizes': SIZES}),
    'heads': (heads.other_cases, {'batch': 2, 'crop': (512, 512)}),
    'loss': (heads.loss_cases, {'batch': 4, 'classes': 150, 'crop': (512, 512)}),
    'train': (networks.training_cases, {'config': R50, 'batch': 2, 'crop': (256, 512)}),
    'predict': (networks.prediction_cases, {'config': R50, 'crop': (512, 1024)}),
    'gpu': (gpu.gpu_cases, {'config': R50}),
    'count': (counting.table_of_counts, {}),
}


def main(argv: Sequence[str]) -> int:
    """Measure what the command line asks for and print one table; 1 if a case failed."""
    options = vars(parse(argv))
    name, markdown = options.pop('benchmark'), options.pop('markdown')
    settings, failures = Settings(**options), []
    console = Console(width=WIDTH_OF_A_FILE if markdown or not sys.stdout.isatty() else None)
    settings.apply()
    if name == 'gpu' and not torch.cuda.is_available():
        sys.exit('error: there is no GPU here: pspnet benchmark count needs none')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of mmseg's classes, the same for stock and ours
        if name == 'count':
            console.print(counting.table_of_counts(markdown))
            return 0
        rows = measure_cases(BENCHMARKS[name][0](settings), settings, failures)
        console.print(settings.describe(), soft_wrap=True)
        if rows:
            console.print(tabulate(rows, markdown))
        if name == 'gpu':
            for kind, parts in (('stock', ()), ('ours', networks.TRAINING)):
                batch = gpu.largest_batch(settings, parts)
                print(f'Largest batch of 512 x 1024 in float16, {kind}: {batch}')
    for failure in failures:
        print(failure, file=sys.stderr)
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
        add = command.add_argument
        for option, default in defaults.items():
            add(f'--{option}', default=default, **OPTIONS[option])
        add('--markdown', action='store_true', help='the table in Markdown')
        if name == 'gpu':
            command.set_defaults(device='cuda')
        elif name != 'count':
            devices = ['cuda', 'cpu'] if torch.cuda.is_available() else ['cpu']
            add('--device', choices=devices, default=devices[0], help='where it is computed')
            add('--dtype', choices=DTYPES, default='float32', help='16-bit types by autocast')
            add('--channels-last', action='store_true', help='memory format of ours and of stock')
            add('--compile', action='store_true', help='with torch.compile')
            add('--runs', type=positive, default=3, help='turns of each variant')
    return parser.parse_args(argv)


def size(text: str) -> Size:
    """``64x128`` -> (64, 128)."""
    height, width = (positive(side) for side in text.split('x'))
    return height, width


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


OPTIONS: dict[str, dict[str, Any]] = {
    'config': {'help': 'a stock config: a file, or mmseg::NAME'},
    'batch': {'type': positive, 'help': 'images or feature maps at once'},
    'channels': {'type': positive, 'help': 'of the feature map'},
    'classes': {'type': positive, 'help': 'number of classes'},
    'crop': {'type': size, 'help': "size of the network's input, HEIGHTxWIDTH"},
    'sizes': {'type': size, 'nargs': '+', 'help': 'of the feature map, HEIGHTxWIDTH each'},
}
