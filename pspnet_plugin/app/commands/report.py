"""``pspnet report``: one page that shows how good checkpoints are."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ...utils.config_files import read_config
from .options import add_config_arguments


def add_report(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add = parser.add_argument
    add(
        'checkpoints',
        nargs='+',
        help='.pth files, or references such as mmseg://NAME; several are compared with the first',
    )
    add('--out', type=Path, required=True, metavar='FILE.html', help='the page to write')
    add(
        '--split',
        choices=['val', 'test'],
        default='val',
        help='which labelled images are predicted: those of val_dataloader (default) or of '
        'test_dataloader',
    )
    add(
        '--work-dir',
        type=Path,
        help='work folder of the run, for its curves (default: the folder of the first checkpoint)',
    )
    add('--device', help='cpu, cuda or cuda:N (default: a GPU if there is one)')


def run_report(arguments: argparse.Namespace) -> int:
    """Predict the images with each checkpoint, write the page, and tell each one's mIoU."""
    from ..reports.page import Origin
    from ..reports.report import verdict, write_report
    from . import _versions

    cfg = read_config(arguments.config, arguments.cfg_options)
    loader = f'{arguments.split}_dataloader'
    origin = Origin(
        title=f'How good is {" and ".join(Path(one).stem for one in arguments.checkpoints)}?',
        dataset=f'{loader} of {arguments.config}',
        command=shlex.join(['pspnet', *arguments.argv]),
        versions=_versions(),
        config=cfg.pretty_text,
    )
    work_dir = arguments.work_dir or Path(arguments.checkpoints[0]).parent
    evaluations = write_report(
        cfg, arguments.checkpoints, arguments.out, loader, work_dir, arguments.device, origin
    )
    print('\n'.join(verdict(found) for found in evaluations))
    print(f'written: {arguments.out}')
    return 0
