#!/usr/bin/env python
"""What ``pspnet_plugin.accelerate`` does to each model family of the installed MMSegmentation.

One config of each family: of those in which most classes are replaced, the one that needs least
memory by the family's metafile, then the first by name. It is built twice with the same random
weights, stock and accelerated. Compared in float64 on eight images of 64 x 64: losses and all
gradients of a training step, then logits and label maps of a prediction. A difference is relative
to the largest value of the tensor; for small gradients, to a thousandth of the largest of all.
Timed in float32: the prediction of one image of 512 x 512, in alternating runs.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import sys
import tempfile
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from beside_stock import CONFIGS, Measured, Outcome, measure_family
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pspnet_plugin.utils.text import did_you_mean, table_as_text

EQUAL = 1e-9
COLUMNS = 'family', 'config', 'replaced', 'loss and gradients', 'prediction', 'faster', 'remarks'


def families() -> list[str]:
    folders = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())
    return [name for name in folders if not name.startswith('_')]


def measure_apart(family: str, limit: float) -> Measured:
    """Measure in a process of its own, which may crash, or is ended after ``limit`` seconds."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['pspnet_plugin'])  # what takes long is imported once
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_measured, args=(family, sender))
    process.start()
    sender.close()
    try:
        if receiver.poll(limit):
            return receiver.recv()
        return Measured(family, builds=f'not finished within {limit:g} s')
    except EOFError:
        process.join()
        return Measured(family, builds=f'the process ended with exit code {process.exitcode}')
    finally:
        process.kill()
        process.join()


def send_measured(family: str, sender: Connection) -> None:
    warnings.simplefilter('ignore')
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, 'w') as nowhere:
        os.chdir(folder)  # the runner leaves its log there
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            sender.send(measure_family(family))
        os.chdir('/')


def tabulate(rows: list[Measured]) -> Table:
    table = Table(*COLUMNS, box=box.MARKDOWN)
    for row in rows:
        if row.builds:
            cells = ['', '', '', '', row.builds]
        else:
            compared = [as_text(row.training), as_text(row.prediction)]
            faster = f'{row.faster:.2f} x' if isinstance(row.faster, float) else row.faster
            cells = [', '.join(row.replaced), *compared, faster, '; '.join(row.remarks)]
        table.add_row(row.family, row.config.removesuffix('.py'), *cells)
    return table


def as_text(outcome: Outcome) -> str:
    if isinstance(outcome, str):
        return outcome
    return f'{outcome:.0e}' if outcome <= EQUAL else f'unequal: {outcome:.1e}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--families', nargs='+', metavar='NAME', help='default: all')
    parser.add_argument('--limit', type=float, default=180, help='seconds for one family')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write the table there as well')
    args = parser.parse_args()
    unknown = sorted(set(args.families or ()) - set(families()))
    if unknown:
        parser.error(f'no such family: {", ".join(unknown)}.{did_you_mean(unknown[0], families())}')
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # the comparison is of processors
    rows = []
    for family in track(args.families or families(), console=Console(stderr=True)):
        rows.append(measure_apart(family, args.limit))
        print(rows[-1], file=sys.stderr)
    table = table_as_text(tabulate(rows), width=1000)
    print(table)
    if args.out:  # columns need no width there
        args.out.write_text(re.sub(r' +\|', ' |', re.sub('-{4,}', '---', table)) + '\n')


if __name__ == '__main__':
    main()
