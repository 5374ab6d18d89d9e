"""What ``pspnet train`` and ``pspnet test`` add to the stock tools of MMSegmentation.

The stock tool does the work; between its reading of the config and its building of the runner,
:func:`prepare` looks at the datasets and fits the config to a machine without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.utils.dl_utils import set_multi_processing
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS

from ...compat import named_files, runner, several_processes
from ...errors import PspnetPluginError
from ...finite_loss import StopAtNonFiniteLossHook
from ...pretrained.planned_loads import refuse_timm_weights
from ...segmentors import LogitsTTAModel
from ...speed.cpu_amp import CpuAmpOptimWrapper, bfloat16_on_this_cpu
from ...utils.config_files import KeyValueAction, find_config, require_model, require_read
from ...utils.config_tree import dicts_within
from ...utils.datasets import registered, scope_of
from ...utils.distributed import in_first_process, is_first_process
from ...utils.files import UNFINISHED, held_alone
from ...utils.text import did_you_mean, next_steps
from . import stock_tools
from .checkpoints import RequireAllWeightsHook, RequireSameBackboneHook
from .config_errors import told_of_config
from .datasets import DatasetError, check_datasets, check_outputs, is_missing
from .pictures import AnyImageVisualizationHook
from .resumed import SameRunHook
from .schedule_end import ScheduleEndHook
from .settings import setting_problems

# Which data loaders a stock tool reads.
LOADERS = {'train.py': ('train_dataloader', 'val_dataloader'), 'test.py': ('test_dataloader',)}
# Which hooks each run of it gets.
GUARDS: dict[str, list[type[Hook]]] = {
    'train.py': [StopAtNonFiniteLossHook, RequireSameBackboneHook, SameRunHook, ScheduleEndHook],
    'test.py': [RequireAllWeightsHook],
}
CHECKPOINTS = 'best_*.pth', 'iter_*.pth', 'epoch_*.pth'  # as mmengine names them
LONGEST = 6  # lines; what the runner logs of a run in progress is shorter
# Warnings of mmengine's about its own parts, which nobody who runs it can act on.
NOT_FOR_USERS = ('will be deprecated', 'The prefix is not set in metric class')


def run_stock_tool(name: str, argv: Sequence[str]) -> int:
    """Run ``train.py`` or ``test.py`` of the installed MMSegmentation.

    Same arguments as the stock tool, except that the first may also be the name of one of the
    plugin's configs. The environment, the whole config and the order of the hooks, which mmengine
    prints at the start of each run, stand in the log file alone. An error of the plugin has one
    message, also where a worker of a data loader raised it. Returns the exit code.
    """
    argv_before, prepared = list(sys.argv), list[Config]()
    sys.argv[:] = [f'pspnet {name[:-3]}', *checked(argv)]
    try:
        with additions(name, options_in(argv)) as prepared:
            runpy.run_path(str(stock_tools() / name))['main']()
    except (PspnetPluginError, OSError) as error:
        if str(error).startswith('Caught '):
            raise PspnetPluginError(plain_message(error)) from error
        raise
    except Exception as error:
        told = told_of_config(error, bool(prepared))
        if told is None:
            raise
        raise PspnetPluginError(f'{argv[0]}: {told}') from error
    finally:
        sys.argv[:] = argv_before
    if name == 'train.py' and prepared and is_first_process():
        print(after_training(argv[0], Path(prepared[0].work_dir)))
    return 0


def checked(argv: Sequence[str]) -> list[str]:
    """The arguments of a stock tool, with the file of the config in place of its name."""
    if any(word.partition('=')[0] == '--device' for word in argv):
        raise PspnetPluginError(
            'A run takes a GPU where there is one, so there is no --device: CUDA_VISIBLE_DEVICES=1 '
            'before the command chooses one, and CUDA_VISIBLE_DEVICES= the CPU.'
        )
    if argv and not argv[0].startswith('-'):
        return [find_config(argv[0]), *argv[1:]]
    return list(argv)


@contextlib.contextmanager
def additions(name: str, options: Sequence[str]) -> Iterator[list[Config]]:
    """Within this context runs are what the module says; the configs of those that have begun.

    Args:
        name: of the stock tool.
        options: the keys of its ``--cfg-options``.
    """
    prepared: list[Config] = []
    with contextlib.ExitStack() as added:

        def fit(cfg: Config) -> None:
            require_read(cfg, options)
            go_on_with_own_run(cfg, options)
            prepare(cfg, LOADERS[name])
            keep_file_of(cfg)
            if name == 'train.py':
                on_first_rank(cfg, lambda: added.enter_context(only_run_in(cfg)))
            prepared.append(cfg)

        added.enter_context(several_processes.gloo_without_a_gpu())
        added.enter_context(named_files.files_named())
        added.enter_context(runner.joined(runner.before_build, fit))
        added.enter_context(runner.joined(runner.logger_built, print_short_entries))
        added.enter_context(runner.joined(runner.added_hooks, *GUARDS[name]))
        try:
            yield prepared
        except BaseException:
            for cfg in prepared:
                with contextlib.suppress(OSError):  # what holds anything stays
                    os.removedirs(cfg.work_dir)
            raise


def go_on_with_own_run(cfg: Config, options: Sequence[str]) -> None:
    """Let ``--resume`` go on with the run in the work folder, where ``load_from`` is its beginning.

    mmengine would go back to ``load_from`` each time, and take over its iteration and optimizer.
    That is done for a checkpoint in the folder itself, and for one that an option names where the
    folder has none.
    """
    beginning, work_dir = cfg.get('load_from'), Path(cfg.work_dir)
    if not cfg.get('resume') or not beginning:
        return
    if not (work_dir / 'last_checkpoint').is_file():
        cfg.resume = 'load_from' in options
    elif Path(beginning).resolve().parent != work_dir.resolve():
        cfg.load_from = None


def keep_file_of(cfg: Config) -> None:
    """Let a run in the folder of its config write its copy under the time of its start.

    mmengine would replace the file that the user has written by the whole config.
    """
    copied = os.path.join(cfg.work_dir, os.path.basename(cfg.filename or ''))
    if cfg.filename and os.path.exists(copied) and os.path.samefile(copied, cfg.filename):
        object.__setattr__(cfg, '_filename', None)


def only_run_in(cfg: Config) -> IO[Any]:
    """An open file by which no other run writes to the same folder until it is closed.

    Raises:
        PspnetPluginError: another run does, or has left checkpoints there that this one, which does
            not go on from them, would overwrite.
    """
    work_dir = Path(cfg.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    held = held_alone(work_dir / '.lock')
    if held is None:
        raise PspnetPluginError(
            f'Another run writes to {work_dir}: wait for its end, or name another --work-dir.'
        )
    there = [path for name in CHECKPOINTS for path in work_dir.glob(name)]
    if there and not cfg.get('resume'):
        held.close()
        raise PspnetPluginError(
            f'{there[0]} is of another run, whose checkpoints this one would overwrite: --resume '
            'goes on with that run, --work-dir DIR keeps it and trains elsewhere.'
        )
    for left in work_dir.glob(UNFINISHED):  # of a run that was killed while it wrote a checkpoint
        left.unlink()
    return held


def after_training(config: str, work_dir: Path) -> str:
    """What to do with the best checkpoint that a run has left, or with the last."""
    found = sorted(work_dir.glob('best*.pth'), key=lambda path: path.stat().st_mtime)
    record = work_dir / 'last_checkpoint'
    if not found and not record.is_file():
        return ''
    files = config, found[-1] if found else record.read_text().strip()
    return next_steps(
        ('test', *files),
        ('report', *files, '--out', 'report.html'),
        ('predict', *files, 'IMAGES', '--out', 'predictions'),
    )


def options_in(argv: Sequence[str]) -> list[str]:
    """The keys of ``--cfg-options`` on the command line of a stock tool."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--cfg-options', nargs='+', action=KeyValueAction, default={})
    return list(parser.parse_known_args(argv)[0].cfg_options)


def print_short_entries(logger: logging.Logger) -> None:
    """Keep off the console what the log file has: long entries, and what users cannot act on."""

    def is_printed(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno == logging.WARNING:
            return not any(part in message for part in NOT_FOR_USERS)
        long = message.count('\n') >= LONGEST
        return not (long and record.module == 'runner' and record.levelno == logging.INFO)

    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # files have a handler of a class below it
            handler.addFilter(is_printed)


def plain_message(error: Exception) -> str:
    """What ``error`` says, where a worker of a data loader has put its traceback around it."""
    return re.split(rf'(?m)^(?:\w+\.)*{type(error).__name__}: ', str(error).strip())[-1]


def prepare(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Check the datasets behind ``loaders`` and fit ``cfg``, in place, to this machine.

    Raises:
        PspnetPluginError: there is no model, or not the checkpoint to load.
        DatasetError: files are missing, or settings do not fit each other.
        PretrainedWeightsError: a backbone would fetch other weights than the config's.
    """
    require_model(cfg)
    checkpoint = cfg.get('load_from')
    if checkpoint and os.path.isdir(checkpoint):
        raise PspnetPluginError(f'The checkpoint {checkpoint} is a folder: name a file in it.')
    if checkpoint and is_missing(checkpoint, {}):
        beside = [str(path) for path in Path(checkpoint).parent.glob('*.pth')]
        hint = did_you_mean(checkpoint, beside)
        raise PspnetPluginError(f'The checkpoint {checkpoint} does not exist.{hint}')
    if get_device() in ('cpu', 'mps'):
        fit_to_cpu(cfg)
    on_first_rank(cfg, functools.partial(check_datasets, cfg, loaders))
    problems = setting_problems(cfg, loaders)
    if problems:
        raise DatasetError('. '.join(problems))
    if 'test_dataloader' in loaders:
        on_first_rank(cfg, functools.partial(check_outputs, cfg))
        if registered(cfg.model.get('type'), MODELS, scope_of(cfg)) is SegTTAModel:  # with --tta
            cfg.model.type = LogitsTTAModel.__name__
    for hook in dicts_within(cfg.get('default_hooks')):
        if 'test_dataloader' in loaders and hook.get('type') == 'SegVisualizationHook':
            hook['type'] = AnyImageVisualizationHook.__name__
    several_processes.fit_to_processes(cfg)
    if 'train_dataloader' in loaders:
        refuse_timm_weights(cfg)


def on_first_rank(cfg: Config, check: Callable[[], object]) -> None:
    """Run ``check`` in the first process of a run only; where it fails, all processes raise.

    Each of many processes would otherwise look at every file. Processes are connected as mmengine's
    runner does it a moment later, which leaves them as they are then. With several machines, only
    the first one's files are looked at.
    """
    launcher, env_cfg = cfg.get('launcher', 'none'), cfg.get('env_cfg') or {}
    if launcher == 'none':
        check()
        return
    if not dist.is_distributed():
        set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
        dist.init_dist(launcher, **env_cfg.get('dist_cfg', {}))
    in_first_process(check)


def fit_to_cpu(cfg: Config) -> None:
    """SyncBN becomes BN, ``--amp`` bfloat16, and distributed runs use gloo: all need a GPU else."""
    synchronized = [n for n in dicts_within(cfg.model) if n.get('type') in ('SyncBN', 'MMSyncBN')]
    for norm in synchronized:
        norm['type'] = 'BN'
    if synchronized:
        log_once('No GPU: SyncBN in the config became BN.')
    if get_device() == 'cpu':
        use_bfloat16(cfg)
    if cfg.get('launcher', 'none') == 'none':
        return
    backend = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('backend', 'nccl')
    if backend == 'nccl':
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
        log_once('No GPU: the nccl backend in the config became gloo.')
    if cfg.get('model_wrapper_cfg') is None:
        # mmengine's own default names a device id, which DistributedDataParallel refuses on CPUs.
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )


def use_bfloat16(cfg: Config) -> None:
    """``AmpOptimWrapper``, which ``--amp`` asks for, becomes the plugin's for CPUs."""
    wrappers = dicts_within(cfg.get('optim_wrapper'))
    mixed = [wrapper for wrapper in wrappers if wrapper.get('type') == 'AmpOptimWrapper']
    for wrapper in mixed:
        wrapper['type'] = CpuAmpOptimWrapper.__name__
        for setting in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(setting, None)
    if mixed:
        message = 'No GPU: mixed precision (--amp) is bfloat16, without a loss scale.'
        log_once(f'{message} {bfloat16_on_this_cpu()}')


def log_once(message: str) -> None:
    """Log a message in the first process alone."""
    if is_first_process():
        print_log(message)
