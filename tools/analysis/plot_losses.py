#!/usr/bin/env python
"""Draw the training loss of several runs in one figure, and how far each is from the first."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
from run_log import read_log


def losses(work_dir: Path) -> dict[int, float]:
    """The logged loss of the run in a work folder, by iteration."""
    return {line['step']: line['loss'] for line in read_log(work_dir) if 'loss' in line}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE.png')
    arguments = parser.parse_args()

    curves = {work_dir.name: losses(work_dir) for work_dir in arguments.work_dirs}
    first, *others = curves.items()
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8, 6), sharex=True, height_ratios=(2, 1), layout='constrained'
    )
    for (name, curve), style in zip(curves.items(), ['-', '--', ':', '-.'] * len(curves)):
        above.plot(list(curve), list(curve.values()), style, label=name)
    for name, curve in others:
        both = [step for step in curve if step in first[1]]
        if not both:
            sys.exit(f'error: {name} logged no iteration that {first[0]} logged too')
        apart = [abs(curve[step] - first[1][step]) / abs(first[1][step]) for step in both]
        below.semilogy(both, apart, label=name)
        print(f'{name}: at most {max(apart):.1e} of the loss of {first[0]} away from it')
    above.set(ylabel='loss')
    above.legend()
    below.set(xlabel='iteration', ylabel=f'relative distance\nfrom {first[0]}')
    figure.savefig(arguments.out, dpi=100)


if __name__ == '__main__':
    main()
