"""What ``pspnet train`` and ``pspnet test`` add to the stock tools of MMSegmentation.

The stock tool does the work; between its reading of the config and its building of the runner,
:func:`prepare` looks at the datasets and fits the config to a machine without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import runpy
import sys
from collections.abc import Callable, Sequence

from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.utils.dl_utils import set_multi_processing

from ...compat import runner, several_processes
from ...errors import PspnetPluginError
from ...finite_loss import StopAtNonFiniteLossHook
from ...pretrained.planned_loads import refuse_timm_weights
from ...speed.cpu_amp import CpuAmpOptimWrapper, bfloat16_on_this_cpu
from ...utils.config_files import find_config, require_read
from ...utils.config_tree import dicts_within
from ...utils.distributed import is_first_process
from . import stock_tools
from .checkpoints import RequireAllWeightsHook, RequireSameBackboneHook
from .datasets import DatasetError, check_datasets
from .schedule_end import ScheduleEndHook
from .settings import setting_problems

# Which data loaders a stock tool reads.
LOADERS = {
    'train.py': ('train_dataloader', 'val_dataloader'),
    'test.py': ('test_dataloader',),
}
# Which hooks each run of it gets.
GUARDS: dict[str, list[type[Hook]]] = {
    'train.py': [StopAtNonFiniteLossHook, RequireSameBackboneHook, ScheduleEndHook],
    'test.py': [RequireAllWeightsHook],
}
LONGEST = 6  # lines; what the runner logs of a run in progress is shorter


def run_stock_tool(name: str, argv: Sequence[str]) -> int:
    """Run ``train.py`` or ``test.py`` of the installed MMSegmentation.

    Same arguments as the stock tool, except that the first may also be the name of one of the
    plugin's configs. The environment, the whole config and the order of the hooks, which mmengine
    prints at the start of each run, stand in the log file alone. An error of the plugin has one
    message, also where a worker of a data loader raised it. Returns the exit code.
    """
    fit = functools.partial(prepare, loaders=LOADERS[name])
    options_are_read = functools.partial(require_read, options=options_in(argv))
    argv, argv_before = list(argv), list(sys.argv)
    if argv and not argv[0].startswith('-'):
        argv[0] = find_config(argv[0])
    sys.argv[:] = [f'pspnet {name[:-3]}', *argv]
    try:
        with contextlib.ExitStack() as added:
            added.enter_context(several_processes.gloo_without_a_gpu())
            added.enter_context(runner.joined(runner.before_build, options_are_read, fit))
            added.enter_context(runner.joined(runner.logger_built, print_short_entries))
            added.enter_context(runner.joined(runner.added_hooks, *GUARDS[name]))
            runpy.run_path(str(stock_tools() / name))['main']()
    except PspnetPluginError as error:
        raise PspnetPluginError(plain_message(error)) from error
    except ValueError as error:
        if 'Expected more than 1 value per channel' not in str(error):
            raise
        raise PspnetPluginError(
            f'{error}: one image that is pooled to one value is too little for batch norm. Set '
            'batch_size to 2 or more, drop_last=True where the last batch of an epoch has one '
            "image, or norm_cfg=dict(type='GN', num_groups=32)."
        ) from error
    finally:
        sys.argv[:] = argv_before
    return 0


def options_in(argv: Sequence[str]) -> list[str]:
    """The keys of ``--cfg-options`` on the command line of a stock tool."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--cfg-options', nargs='+', default=[])
    return [option.partition('=')[0] for option in parser.parse_known_args(argv)[0].cfg_options]


def print_short_entries(logger: logging.Logger) -> None:
    """Keep long entries of the runner off the console; the log file has them."""

    def is_printed(record: logging.LogRecord) -> bool:
        long = record.getMessage().count('\n') >= LONGEST
        return not (long and record.module == 'runner' and record.levelno == logging.INFO)

    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:  # files have a handler of a class below it
            handler.addFilter(is_printed)


def plain_message(error: PspnetPluginError) -> str:
    """What ``error`` says, also where a worker of a data loader has put its traceback around it."""
    if not str(error).startswith('Caught '):
        return str(error)
    return str(error).strip().rpartition(f'{type(error).__name__}: ')[2]


def prepare(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Check the datasets behind ``loaders`` and fit ``cfg``, in place, to this machine.

    Raises:
        DatasetError: files are missing, or settings do not fit each other.
        PretrainedWeightsError: a backbone would fetch other weights than the config's.
    """
    if get_device() in ('cpu', 'mps'):
        fit_to_cpu(cfg)
    on_first_rank(cfg, functools.partial(check_datasets, cfg, loaders))
    problems = setting_problems(cfg, loaders)
    if problems:
        raise DatasetError('. '.join(problems))
    several_processes.fit_to_processes(cfg)
    if 'train_dataloader' in loaders:
        refuse_timm_weights(cfg)


def on_first_rank(cfg: Config, check: Callable[[], None]) -> None:
    """Run ``check`` in the first process of a run only; all processes raise what it raises there.

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
    raised: list[Exception | None] = [None]
    if dist.is_main_process():
        try:
            check()
        except Exception as error:
            raised[0] = error if isinstance(error, DatasetError) else DatasetError(repr(error))
    dist.broadcast_object_list(raised)
    if raised[0] is not None:
        raise raised[0]


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
