"""The console command ``pspnet``; the scripts in ``tools/`` are doors to the same functions.

Each sub-command is a module with ``add_arguments``, which fills its parser, and ``run``, which does
the work and returns the exit code. Those in :data:`PASSED_ON` hand their words to another command
line as they are, and have ``run_words`` alone.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from ...errors import PspnetPluginError

COMMANDS = {
    'init': 'write a config for a folder of images and one of masks',
    'prepare': 'make images and label maps of a published dataset from its archives',
    'check': 'look at the data of a config before it trains',
    'config': "print one of the plugin's configs, or list them",
    'train': "train a model (options of MMSegmentation's train tool)",
    'test': "measure a checkpoint on labelled images (options of MMSegmentation's test tool)",
    'predict': 'write label maps and overlays of images and videos, no labels needed',
    'export': 'write a trained network as a file for ONNX Runtime, OpenVINO or torch.export',
    'inspect': 'show which pretrained weights a config loads, and what becomes of each',
    'plot': 'draw loss, mIoU and learning rate of training runs, and what was frozen when',
    'freezing': 'show which layers a config freezes, and when',
    'benchmark': 'measure the plugin against stock MMSegmentation on this machine',
}
PASSED_ON = ('train', 'test', 'benchmark')
EXAMPLES = """\
examples:
  pspnet config psp_r50_cityscapes --out my_streets.py
  pspnet train my_streets.py
  pspnet test my_streets.py work_dirs/my_streets/iter_40000.pth
  pspnet predict my_streets.py work_dirs/my_streets/iter_40000.pth photos --out predictions
  pspnet export my_streets.py work_dirs/my_streets/iter_40000.pth --out my_streets.onnx

  torchrun --nproc_per_node 4 -m pspnet_plugin train CONFIG --launcher pytorch

pspnet COMMAND --help shows the options of a command. train and test print long log entries as
one line; --full-log prints them as they are.
"""


def main(words: Sequence[str] | None = None) -> int | str | None:
    """Run the command line ``words``, by default that of the process.

    Returns:
        The exit code. An error of the plugin is printed as one line, without a traceback, and is 1.
    """
    words = list(sys.argv[1:] if words is None else words)
    try:
        if words and words[0] in PASSED_ON:
            return _module(words[0]).run_words(words[1:])
        return _run(words)
    except PspnetPluginError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    named = words[0] if words and words[0] in COMMANDS else None
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
        if name == named:  # The others need not be imported.
            _module(name).add_arguments(command)
            command.set_defaults(run=_module(name).run)
    arguments = parser.parse_args(words)
    return arguments.run(arguments)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f'.{name}', __package__)


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
