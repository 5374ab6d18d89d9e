"""``pspnet export``: a trained network as a file for ONNX Runtime, OpenVINO or ``torch.export``."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ...utils.config_files import read_config, shipped
from ..export.settings import DTYPES, OUTPUTS, SUFFIXES, ExportSettings
from .options import add_config_arguments

# The scripts that run a file which takes pixels and gives labels or probabilities.
EXAMPLES = {'onnx': 'onnxruntime_predict.py', 'openvino': 'openvino_predict.py'}


def add_export(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add = parser.add_argument
    add('checkpoint', help='checkpoint file, or an address')
    add('--out', required=True, type=Path, help='file to write')
    add('--to', choices=SUFFIXES, default='onnx', help='format (default: onnx)')
    add(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='take one image of this size only; by default any batch, height and width',
    )
    add(
        '--normalize',
        action='store_true',
        help='take pixels as they were read, 0 to 255, and normalize them in the file',
    )
    add(
        '--output',
        choices=OUTPUTS,
        default='logits',
        help='what the file gives: logits of the decode head, or probabilities or labels at the '
        'size of the input (default: logits)',
    )
    add(
        '--opset',
        type=int,
        metavar='N',
        help="version of ONNX's operators, for older runtimes (default: the exporter's)",
    )
    add('--dtype', choices=DTYPES, default='float32', help='of the weights (default: float32)')
    add(
        '--int8',
        action='store_true',
        help='quantize, calibrated on images of the training set, and print the loss of mIoU',
    )
    add(
        '--winograd',
        action='store_true',
        help='write large convolutions with a quarter of the multiplications: faster on CPUs, in '
        'float32 alone',
    )
    add(
        '--check-images',
        type=Path,
        metavar='FOLDER',
        help='images to compare the file with PyTorch on (default: the validation set)',
    )
    add(
        '--val-images',
        type=int,
        metavar='N',
        help='measure the mIoU of --int8 on N images of the validation set (default: all)',
    )


def run_export(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from ..export.write import export_model

    settings = ExportSettings(
        to=arguments.to,
        size=tuple(arguments.size) if arguments.size else None,
        normalize=arguments.normalize,
        output=arguments.output,
        dtype=arguments.dtype,
        int8=arguments.int8,
        winograd=arguments.winograd,
        opset=arguments.opset,
    )
    print('The network is recorded and compared with PyTorch: a minute or more.', file=sys.stderr)
    report = export_model(
        read_config(arguments.config, arguments.cfg_options),
        arguments.checkpoint,
        arguments.out,
        settings,
        arguments.check_images,
        arguments.val_images,
    )
    print('\n'.join(report.lines()))
    if settings.to in EXAMPLES and settings.normalize and settings.output != 'logits':
        script = shipped('examples') / EXAMPLES[settings.to]
        words = 'python', str(script), str(arguments.out), 'IMAGE', 'labels.png'
        print(f'next:    {shlex.join(words)}')
    return 0
