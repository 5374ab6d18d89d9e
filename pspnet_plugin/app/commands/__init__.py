"""The console command ``pspnet``; the scripts in ``tools/`` are doors to the same functions.

Each has a module of its name: ``add_NAME`` fills its parser, and ``run_NAME`` does the work and
returns the exit code; what it needs of torch it imports there, so that its help does not wait for
it. ``train``, ``test`` and ``benchmark`` hand their arguments to another command line as they are.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

from ...errors import PspnetPluginError

COMMANDS = {
    'init': 'write a config for images with masks or with the files of an annotation tool',
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
# Of the others all need what the plugin registers, and with it torch.
WITHOUT_TORCH = ('init', 'prepare', 'config')
EXAMPLES = """\
your own images:
  pspnet init photos masks --out mine
  pspnet check mine/mine.py --out grid.png
  pspnet train mine/mine.py
  pspnet report mine/mine.py work_dirs/mine/best_mIoU_*.pth --out report.html
  pspnet predict mine/mine.py work_dirs/mine/best_mIoU_*.pth photos --out predictions
  pspnet export mine/mine.py work_dirs/mine/best_mIoU_*.pth --out mine.onnx

other configs:
  pspnet config psp_r50_cityscapes --out my_streets.py
  pspnet train my_streets.py

  torchrun --nproc_per_node 4 -m pspnet_plugin train CONFIG --launcher pytorch

pspnet COMMAND --help shows the options of a command.
"""


# Beginnings of warnings that other packages give about each other.
NOT_FOR_USERS = (
    r'(?s).*deprecated',
    'The draw is False',
    'Detected call of `lr_scheduler',
    'For binary segmentation, we suggest',
    'Image size .* could be decompression bomb',  # of Pillow; it refuses what is twice as large
    'Dataset has no geotransform',
)
INTERRUPTED = 130  # the exit code of what Ctrl-C has ended
HOW_TO_GO_ON = {
    'train': 'The same command with --resume goes on from the last checkpoint.',
    'predict': 'What is written is whole, and the same command goes on from there.',
    'prepare': 'What is written is whole, and the same command goes on from there.',
}


def main(argv: Sequence[str] | None = None) -> int | str | None:
    """Run a command line, by default that of the process.

    Returns:
        The exit code. An error of the plugin or of a file is printed as one line, without a
        traceback, and is 1; so is Ctrl-C, with how to go on, and is 130.
    """
    if argv is None and hasattr(os, 'register_at_fork'):  # not on Windows
        os.register_at_fork(after_in_child=_leave_ctrl_c_to_the_parent)
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # print what its encoding lacks as \u9053
        sys.stdout.reconfigure(errors='backslashreplace')
    command = argv[0] if argv else ''
    try:
        if command not in COMMANDS:
            return _run(argv)
        _ignore_warnings_of_others()
        with _importable(os.getcwd()), _quiet_logs():
            return _run(argv)
    except (Exception, KeyboardInterrupt) as error:
        if _began_with_ctrl_c(error):
            way_on = HOW_TO_GO_ON.get(command, 'The same command starts again.')
            print(f'stopped. {way_on}', file=sys.stderr)
            return INTERRUPTED
        if not isinstance(error, (PspnetPluginError, OSError)):
            raise
        from ...utils.text import printable

        print(f'error: {printable(_told(error))}', file=sys.stderr)
        return 1


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """A log on a full disk prints no tracebacks: what else is written there says it."""
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    finally:
        logging.raiseExceptions = before


def _run(argv: list[str]) -> int | str | None:
    named = argv[0] if argv else None
    if named in ('train', 'test'):
        if {'-h', '--help'} & {*argv}:
            from ..training import print_stock_help

            print_stock_help(f'{named}.py')
        _register(next(iter(argv[1:]), None))
        from ..training.launch import run_stock_tool

        return run_stock_tool(f'{named}.py', argv[1:])
    if named == 'benchmark':
        _register()
        return _run_benchmark(argv[1:])
    parser = argparse.ArgumentParser(
        prog='pspnet',
        description='PSPNet in MMSegmentation: train, test, predict and look into it.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = _versions() if named == '--version' else ''
    parser.add_argument('--version', action='version', version=version)
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for name, summary in COMMANDS.items():
        sentence = f'{summary[0].upper()}{summary[1:]}.'
        command = commands.add_parser(name, help=summary, description=sentence)
        if name == named:
            module = importlib.import_module(f'.{name}', __package__)
            getattr(module, f'add_{name}')(command)
            command.set_defaults(run=getattr(module, f'run_{name}'))
    if named and named not in COMMANDS and not named.startswith('-'):
        from ...utils.text import did_you_mean

        parser.error(f'{named} is no command.{did_you_mean(named, COMMANDS)}')
    arguments = parser.parse_args(argv, argparse.Namespace(argv=argv))
    if named not in WITHOUT_TORCH:
        _register(getattr(arguments, 'config', None))
    return arguments.run(arguments)


def _register(config: str | None = None) -> None:
    """Import what the plugin registers, and torch, unless the config of a command is no file."""
    if config and not config.startswith('-') and '::' not in config:
        from ...utils.config_files import find_config

        find_config(config)
    with _ctrl_c_held():
        importlib.import_module('pspnet_plugin.registered')


@contextlib.contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Ctrl-C counts at the end of this context: while torch is imported it aborts the process."""
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _run_benchmark(argv: list[str]) -> int:
    """The benchmarks in ``tools/``, which travel with the package."""
    from ...utils.config_files import shipped

    with _importable(str(shipped('tools'))):
        return importlib.import_module('benchmark.command').main(argv)


@contextlib.contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Within this context the modules of a folder are found, as those beside a script are."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _began_with_ctrl_c(error: BaseException | None) -> bool:
    """Also where a library has put an error of its own in its place, as mmengine's config does."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _leave_ctrl_c_to_the_parent() -> None:
    """A terminal sends Ctrl-C to the workers of data loaders too, which end when their parent does.

    Errors of their threads are then about connections that the parent has closed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None


def _told(error: Exception) -> str:
    """What an error says; one of the system, such as a full disk, in one line with the file."""
    if isinstance(error, OSError) and error.strerror:
        return f'{error.filename}: {error.strerror}' if error.filename else error.strerror
    return ' '.join(str(error).split()) if isinstance(error, OSError) else str(error)


def _ignore_warnings_of_others() -> None:
    """Show no warnings that only the authors of other packages can act on; ``-W`` shows all."""
    if sys.warnoptions:
        return
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.simplefilter('ignore', category)
    for message in NOT_FOR_USERS:
        warnings.filterwarnings('ignore', message)


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
