"""The console command ``pspnet``; the scripts in ``tools/`` are doors to the same functions.

A module has ``add_NAME`` for each of its sub-commands, which fills its parser, and ``run_NAME``,
which does the work and returns the exit code. ``train``, ``test`` and ``benchmark`` hand their
arguments to another command line as they are.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence

from ...errors import PspnetPluginError
from ...utils.config_files import shipped

COMMANDS = {
    'init': 'write a config for a folder of images and one of masks',
    'prepare': 'make images and label maps of a published dataset from its archives',
    'check': 'look at the data of a config before it trains',
    'config': "print one of the plugin's configs, or list them",
    'train': "train a model (options of MMSegmentation's train tool)",
    'test': "measure a checkpoint on labelled images (options of MMSegmentation's test tool)",
    'folds': 'train on folds of the images, and measure on those that each run has not seen',
    'predict': 'write label maps and overlays of images and videos, no labels needed',
    'export': 'write a trained network as a file for ONNX Runtime, OpenVINO or torch.export',
    'inspect': 'show which pretrained weights a config loads, and what becomes of each',
    'plot': 'draw loss, mIoU and learning rate of training runs, and what was frozen when',
    'report': 'write one page that shows how good checkpoints are, image by image',
    'freezing': 'show which layers a config freezes, and when',
    'benchmark': 'measure the plugin against stock MMSegmentation on this machine',
}
# The modules of this folder, imported when one of their sub-commands is asked for.
MODULES = {
    **dict.fromkeys(('init', 'prepare', 'check'), 'data'),
    **dict.fromkeys(('config', 'inspect', 'freezing'), 'configs'),
    **{name: name for name in ('predict', 'export', 'plot', 'report', 'folds')},
}
EXAMPLES = """\
examples:
  pspnet config psp_r50_cityscapes --out my_streets.py
  pspnet train my_streets.py
  pspnet test my_streets.py work_dirs/my_streets/iter_40000.pth
  pspnet predict my_streets.py work_dirs/my_streets/iter_40000.pth photos --out predictions
  pspnet export my_streets.py work_dirs/my_streets/iter_40000.pth --out my_streets.onnx

  torchrun --nproc_per_node 4 -m pspnet_plugin train CONFIG --launcher pytorch

pspnet COMMAND --help shows the options of a command.
"""


def main(argv: Sequence[str] | None = None) -> int | str | None:
    """Run a command line, by default that of the process.

    Returns:
        The exit code. An error of the plugin is printed as one line, without a traceback, and is 1.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # print what its encoding lacks as \u9053
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        if argv and argv[0] in ('train', 'test'):
            from ..training.launch import run_stock_tool

            return run_stock_tool(f'{argv[0]}.py', argv[1:])
        if argv and argv[0] == 'benchmark':
            return _run_benchmark(argv[1:])
        return _run(argv)
    except PspnetPluginError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


def _run(argv: list[str]) -> int:
    named = argv[0] if argv else None
    parser = argparse.ArgumentParser(
        prog='pspnet',
        description='PSPNet in MMSegmentation: train, test, predict and look into it.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=_versions())
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, summary in COMMANDS.items():
        sentence = f'{summary[0].upper()}{summary[1:]}.'
        command = commands.add_parser(name, help=summary, description=sentence)
        if name == named:
            module = importlib.import_module(f'.{MODULES[name]}', __package__)
            getattr(module, f'add_{name}')(command)
            command.set_defaults(run=getattr(module, f'run_{name}'))
    arguments = parser.parse_args(argv, argparse.Namespace(argv=argv))
    return arguments.run(arguments)


def _run_benchmark(argv: list[str]) -> int:
    """The benchmarks in ``tools/``, which travel with the package."""
    tools = str(shipped('tools'))
    sys.path.insert(0, tools)  # as Python does for a script
    try:
        return importlib.import_module('benchmark.command').main(argv)
    finally:
        sys.path.remove(tools)


def _versions() -> str:
    """The versions that a report of a defect needs."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in ('pspnet-plugin', 'torch', 'mmengine', 'mmsegmentation', 'mmcv', 'mmcv-lite'):
        try:
            found.append(f'{package} {version(package)}')
        except PackageNotFoundError:
            continue
    return ', '.join(found)
