"""``pspnet predict``: label maps and overlays of images and videos, into a folder."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...errors import PredictionError
from ...utils.config_files import read_config
from ...utils.text import next_steps, printable
from .options import add_config_arguments


def add_predict(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add = parser.add_argument
    add('checkpoint', help='a .pth file, or a reference such as mmseg://NAME')
    add('inputs', nargs='+', help='images, videos, folders, globs in quotes, http(s) addresses')
    add(
        '--out',
        type=Path,
        required=True,
        help='the folder for labels/, overlays/ and shares.csv; the same command again goes on '
        'where it stopped',
    )
    add('--batch', type=int, default=1, help='images of the same size at once (default: 1)')
    add('--tta', action='store_true', help="average over the config's tta_pipeline: slower, better")
    add(
        '--probabilities',
        action='store_true',
        help='also write probabilities/: TIFF files with a 16-bit page for each class',
    )
    add(
        '--window',
        type=int,
        help='predict images of any size at that size, in overlapping windows of this side; '
        'GeoTIFF keeps its georeference',
    )
    add('--overlap', type=int, help='pixels that neighbouring windows share (default: a quarter)')
    add('--device', help='cpu, cuda or cuda:N (default: a GPU if there is one)')
    add(
        '--dtype',
        choices=['float32', 'bfloat16', 'float16'],
        default='float32',
        help='what the network computes in (default: float32)',
    )
    add('--opacity', type=fraction, default=0.5, help='of the colours in overlays/ (default: 0.5)')


def fraction(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not between 0 and 1')
    return number


def run_predict(arguments: argparse.Namespace) -> int:
    """Predict, and tell what became of the images; 1 if one of them could not be predicted."""
    from ...utils.distributed import device_of_process, is_first_process
    from ..images.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, sources_of
    from ..models import init_model
    from ..prediction.folder import predict_folder
    from ..prediction.predictor import PredictOptions

    require_one_checkpoint([arguments.checkpoint, *arguments.inputs])
    cfg = read_config(arguments.config, arguments.cfg_options)
    # Before the model, whose building takes longer.
    sources = list(sources_of(arguments.inputs, IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    device = device_of_process(arguments.device)
    model = init_model(cfg, arguments.checkpoint, device, arguments.dtype)
    options = PredictOptions(
        arguments.batch, arguments.probabilities, arguments.tta, arguments.window, arguments.overlap
    )
    first = is_first_process()
    columns = TextColumn('predict'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not first) as progress:
        task = progress.add_task('predict', total=None)
        advance = partial(progress.update, task)
        summary = predict_folder(model, sources, arguments.out, options, arguments.opacity, advance)
    if not first:
        return 0
    print(f'{summary.predicted} predicted: {arguments.out}')
    if summary.failures:
        print(f'{len(summary.failures)} could not be predicted:', file=sys.stderr)
        for failure in summary.failures:
            print(f'  {printable(failure)}', file=sys.stderr)
    else:
        files = arguments.config, arguments.checkpoint
        out = Path(arguments.config).with_suffix('.onnx').name
        print(next_steps(('export', *files, '--out', out)))
    return 1 if summary.failures else 0


def require_one_checkpoint(names: list[str]) -> None:
    """Raise PredictionError for several, as best_mIoU_*.pth gives them after two trainings."""
    found = [name for name in names if name.endswith('.pth') and os.path.isfile(name)]
    if len(found) > 1:
        raise PredictionError(
            f'{" and ".join(found)} are {len(found)} checkpoints, and one predicts: name it. The '
            f'newest is {max(found, key=os.path.getmtime)}.'
        )
