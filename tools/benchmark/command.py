"""Compare the plugin with stock MMSegmentation, in one process and by alternating runs.

The ratios are to stock in the same run; the last column says what the plugin has to reach on two
CPU cores in float32 at the default sizes. Peak memory is what a step takes above what was held
before it: on a GPU by CUDA's counter, on a CPU as the resident set of a fresh child process (on
Linux after a warm-up run, with the peak reset; elsewhere the first run, from the growth of the
process's highest peak).
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Callable, NamedTuple

import torch
from rich.console import Console

from . import folder, freeze, head, heads, loss, passes, plots, predict, train, winograd
from .models import CHANNELS_STEP, NETWORKS, PUBLISHED_CHANNELS
from .settings import Settings
from .table import Table


class Benchmark(NamedTuple):
    """A sub-command: what it measures, and its options of SCALE with their defaults."""

    measure: Callable[[Settings], Iterable[Table]]
    description: str
    defaults: dict


WIDTH_WITHOUT_TERMINAL = 160
SIZES = ((64, 128), (97, 97), (32, 32))
MODEL = {'channels': PUBLISHED_CHANNELS, 'classes': 19}
ANY_MODEL = {'model': 'pspnet_r50', **MODEL}
BENCHMARKS = {
    'head': Benchmark(
        head.measure,
        'the head alone, over feature-map sizes',
        {**MODEL, 'batch': 2, 'sizes': SIZES},
    ),
    'heads': Benchmark(
        heads.measure,
        'heads of several feature maps alone',
        {'batch': 2, 'crop': (512, 512)},
    ),
    'loss': Benchmark(
        loss.measure,
        'loss and backward of both heads from their logits',
        {'classes': 150, 'batch': 4, 'crop': (512, 512)},
    ),
    'train': Benchmark(
        train.measure,
        'a training step of a whole network',
        {**ANY_MODEL, 'batch': 2, 'crop': (256, 512)},
    ),
    'predict': Benchmark(
        predict.measure,
        'prediction of one image, from file to label map',
        {**ANY_MODEL, 'crop': (512, 1024)},
    ),
    'folder': Benchmark(
        folder.measure,
        'prediction of a folder, from files to files',
        {**MODEL, 'crop': (512, 1024)},
    ),
    'freeze': Benchmark(
        freeze.measure,
        'a training step with frozen layers',
        {**MODEL, 'batch': 2, 'crop': (256, 512)},
    ),
    'winograd': Benchmark(
        winograd.measure,
        '3 x 3 convolutions by tiles, where the plugin takes them and where not',
        {'batch': 2, 'sizes': ((16, 16), (23, 23), (32, 32), (64, 64))},
    ),
}


def size(text: str) -> tuple[int, int]:
    """``64x128`` -> (64, 128)."""
    height, width = (positive(side) for side in text.split('x'))
    return height, width


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def batch_size(text: str) -> int:
    number = positive(text)
    if number < 2:
        raise argparse.ArgumentTypeError(
            f'batch norm of the 1 x 1 level needs at least 2, not {text}'
        )
    return number


def channel_count(text: str) -> int:
    number = positive(text)
    if number % CHANNELS_STEP:
        raise argparse.ArgumentTypeError(f'{text} is not a multiple of {CHANNELS_STEP}')
    return number


# The type and the help of the options that not every sub-benchmark has.
SCALE = {
    'batch': (batch_size, 'images or feature maps at once'),
    'channels': (channel_count, "width, as channels of a ResNet-50's last feature map"),
    'classes': (positive, 'number of classes'),
    'crop': (size, "size of the network's input, HEIGHTxWIDTH"),
    'model': (str, 'the network'),
    'sizes': (size, 'sizes of the feature map, HEIGHTxWIDTH each'),
}
MORE = {'model': {'choices': list(NETWORKS)}, 'sizes': {'nargs': '+'}}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    commands = parser.add_subparsers(dest='benchmark', required=True)
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(
            name,
            help=benchmark.description,
            description=f'Measure {benchmark.description}.',
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        add_common(command)
        for option, default in benchmark.defaults.items():
            kind, text = SCALE[option]
            more = MORE.get(option, {})
            command.add_argument(f'--{option}', type=kind, default=default, help=text, **more)
    args = parser.parse_args(arguments)
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no CUDA GPU on this machine; use --device cpu')
    return args


def add_common(parser: argparse.ArgumentParser) -> None:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dtypes = ['float32', 'float16', 'bfloat16']
    parser.add_argument('--device', default=device, help='cpu, cuda or cuda:N')
    parser.add_argument(
        '--dtype', choices=dtypes, default='float32', help='the 16-bit types run under autocast'
    )
    parser.add_argument('--compile', action='store_true', help='with torch.compile')
    parser.add_argument(
        '--threads',
        type=positive,
        default=torch.get_num_threads(),
        help='CPU threads of PyTorch',
    )
    parser.add_argument('--runs', type=positive, default=5, help='timed runs of each variant')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='write the tables to FILE')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='draw a figure to FILE (.png)')
    parser.add_argument(
        '--check', action='store_true', help='exit with 1 if a wanted value is missed'
    )


def settings_from(args: argparse.Namespace) -> Settings:
    chosen = {name: getattr(args, name) for name in SCALE if hasattr(args, name)}
    if 'sizes' in chosen:
        chosen['sizes'] = tuple(dict.fromkeys(chosen['sizes']))
    return Settings(args.device, args.dtype, args.compile, args.threads, args.runs, **chosen)


def as_markdown(tables: list[Table], settings: Settings, command: str) -> str:
    return '\n\n'.join([f'`{command}`', settings.describe(), *(t.as_markdown() for t in tables)])


def draw(tables: list[Table], args: argparse.Namespace, settings: Settings) -> None:
    if args.benchmark == 'head':
        by_pixels = {h * w: table for (h, w), table in zip(settings.sizes, tables)}
        plots.draw_over_sizes(by_pixels, [passes.FORWARD, passes.BOTH], args.plot)
    else:
        plots.draw_bars(tables[0], args.plot)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    settings = settings_from(args)
    torch.set_num_threads(settings.threads)
    console = Console(width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)
    console.print(settings.describe(), soft_wrap=True)
    tables = []
    for table in BENCHMARKS[args.benchmark].measure(settings):
        console.print(table.as_rich())
        tables.append(table)
    if args.markdown:
        words = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(['python', 'tools/benchmark.py', *words])
        args.markdown.write_text(as_markdown(tables, settings, command) + '\n', encoding='utf-8')
    if args.plot:
        draw(tables, args, settings)
    missed = [sentence for table in tables for sentence in table.missed()]
    if args.check:
        for sentence in missed:
            console.print(f'missed: {sentence}', soft_wrap=True)
    return 1 if args.check and missed else 0
