"""What ``pspnet train`` and ``pspnet test`` add to the stock tools of MMSegmentation.

The stock tool does the work; between its reading of the config and its building of the runner,
:func:`prepare` looks at the datasets and fits the config to a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine import dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.utils.dl_utils import set_multi_processing

from ..compat import runner
from ..compat.config_scope import find_config
from ..errors import PspnetPluginError
from ..inspection.planned_loads import refuse_timm_weights
from ..speed import CpuAmpOptimWrapper
from .console import fold_console
from .finite_loss import StopAtNonFiniteLossHook

# Which data loaders a stock tool reads.
LOADERS = {
    'train.py': ('train_dataloader', 'val_dataloader'),
    'test.py': ('test_dataloader',),
}


OWN_TOOLS = Path(__file__).parents[1] / '.mim' / 'tools'
FULL_LOG = '--full-log'


class DatasetError(PspnetPluginError):
    """A dataset that the config names is missing or incomplete."""


def run_stock_tool(name: str, words: Sequence[str]) -> int:
    """Run ``train.py`` or ``test.py`` of the installed MMSegmentation.

    Same command line as the stock tool, except that the first word may also be the name of one of
    the plugin's configs, and that ``--full-log`` shows long log entries in full.

    Returns:
        The exit code.

    Raises:
        PspnetPluginError: with one message, also where a worker of a data loader raised it.
    """
    fit = functools.partial(prepare, loaders=LOADERS[name])
    words = list(words)
    if words and not words[0].startswith('-'):
        words[0] = find_config(words[0])
    full = FULL_LOG in words
    words = [word for word in words if word != FULL_LOG]
    runner.before_build.append(fit)
    if not full:
        runner.logger_built.append(fold_console)
    try:
        with as_command_line(f'pspnet {name[:-3]}', words):
            runpy.run_path(str(stock_tools() / name))['main']()
    except PspnetPluginError as error:
        raise PspnetPluginError(plain_message(error)) from error
    finally:
        runner.before_build.remove(fit)
        if not full:
            runner.logger_built.remove(fold_console)
        if StopAtNonFiniteLossHook in runner.added_hooks:
            runner.added_hooks.remove(StopAtNonFiniteLossHook)
    return 0


@contextlib.contextmanager
def as_command_line(program: str, words: Sequence[str]) -> Iterator[None]:
    """Within this context the process looks as if ``program`` had been started with ``words``."""
    before = list(sys.argv)
    sys.argv[:] = [program, *words]
    try:
        yield
    finally:
        sys.argv[:] = before


def plain_message(error: PspnetPluginError) -> str:
    """What ``error`` says, also where a worker of a data loader has put its traceback around it."""
    message = str(error)
    if message.startswith('Caught '):
        message = message.strip().rpartition(f'{type(error).__name__}: ')[2]
    return message


def stock_tools() -> Path:
    """The folder of the installed MMSegmentation's tools."""
    import mmseg

    return Path(mmseg.__file__).parent / '.mim' / 'tools'


def prepare(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Check the datasets behind ``loaders`` and fit ``cfg``, in place, to this machine.

    Raises:
        DatasetError: a folder or a label map is missing; the message says how to get it.
        PretrainedWeightsError: a backbone would fetch other weights than the config's.
    """
    if get_device() in ('cpu', 'mps'):
        fit_to_cpu(cfg)
    on_first_rank(cfg, functools.partial(check_datasets, cfg, loaders))
    if 'train_dataloader' in loaders:
        refuse_timm_weights(cfg)
        runner.added_hooks.append(StopAtNonFiniteLossHook)


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


# --- datasets -----------------------------------------------------------------------------------


def check_datasets(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Raise :class:`DatasetError` unless every dataset lies where ``cfg`` says, with its labels."""
    way_out = preparation(cfg)
    for loader in loaders:
        for dataset in datasets_within((cfg.get(loader) or {}).get('dataset')):
            check_folders(dataset, way_out)
            check_pairs(dataset, way_out)


def preparation(cfg: Config) -> str:
    """A sentence with the command that makes the dataset: the config's ``prepare_dataset``."""
    command = cfg.get('prepare_dataset')
    if not command:
        return 'Set data_root in the config to where it is.'
    command = command.replace('{mmseg_tools}', str(stock_tools()))
    command = command.replace('{plugin_tools}', str(OWN_TOOLS))
    return f'Set data_root in the config to where it is, or make it: {command}'


def datasets_within(dataset: dict | None) -> Iterator[dict]:
    """The configs of the plain datasets inside wrappers such as ConcatDataset and RepeatDataset."""
    if not dataset:
        return
    inner = dataset.get('datasets') or dataset.get('dataset')
    if inner is None:
        yield dataset
    for wrapped in [inner] if isinstance(inner, dict) else inner or ():
        yield from datasets_within(wrapped)


def check_folders(dataset: dict, way_out: str) -> None:
    root = dataset.get('data_root') or ''
    named = dict(dataset.get('data_prefix') or {}, ann_file=dataset.get('ann_file'))
    if not reads_labels(dataset):
        named.pop('seg_map_path', None)
    for path in [root, *(os.path.join(root, part) for part in named.values() if part)]:
        if path and is_local(path, dataset) and not os.path.exists(path):
            raise DatasetError(f'{os.path.abspath(path)} does not exist. {way_out}')


def check_pairs(dataset: dict, way_out: str) -> None:
    """Every image that MMSegmentation lists for ``dataset`` exists and has its label map."""
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS

    kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
    if not (isinstance(kind, type) and issubclass(kind, BaseSegDataset)):
        return
    built = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})
    samples = built.load_data_list()
    if not samples:
        folder = os.path.abspath(built.data_prefix.get('img_path') or '')
        raise DatasetError(f'No image *{built.img_suffix} lies in {folder}. {way_out}')
    labels = reads_labels(dataset)
    for sample in samples:
        image, label_map = sample['img_path'], sample.get('seg_map_path') if labels else None
        if is_local(image, dataset) and not os.path.isfile(image):
            raise DatasetError(f'The image {os.path.abspath(image)} does not exist. {way_out}')
        if label_map and is_local(label_map, dataset) and not os.path.isfile(label_map):
            raise DatasetError(
                f'The label map {os.path.abspath(label_map)} does not exist but the image {image} '
                f'does. Add it, or take the image out. {way_out}'
            )


def reads_labels(dataset: dict) -> bool:
    """Whether the pipeline loads label maps; a test split without them is nothing wrong."""
    steps = dicts_within(dataset.get('pipeline'))
    return any('Annotations' in str(step.get('type')) for step in steps)


def is_local(path: str, dataset: dict) -> bool:
    return '://' not in path and not dataset.get('backend_args')


def dicts_within(node: Any) -> Iterator[dict]:
    """Every dictionary in a nested config, ``node`` included."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts_within(value)


# --- machines without a GPU ---------------------------------------------------------------------


def fit_to_cpu(cfg: Config) -> None:
    """SyncBN becomes BN, ``--amp`` bfloat16, and distributed runs use gloo: all need a GPU else."""
    synchronized = [n for n in dicts_within(cfg.model) if n.get('type') in ('SyncBN', 'MMSyncBN')]
    for norm in synchronized:
        norm['type'] = 'BN'
    if synchronized:
        _log('No GPU: SyncBN in the config became BN.')
    if get_device() == 'cpu':
        use_bfloat16(cfg)
    if cfg.get('launcher', 'none') == 'none':
        return
    backend = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('backend', 'nccl')
    if backend == 'nccl':
        cfg.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
        _log('No GPU: the nccl backend in the config became gloo.')
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
    mixed = [
        n for n in dicts_within(cfg.get('optim_wrapper')) if n.get('type') == 'AmpOptimWrapper'
    ]
    for wrapper in mixed:
        wrapper['type'] = CpuAmpOptimWrapper.__name__
        for setting in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(setting, None)
    if mixed:
        _log('No GPU: mixed precision (--amp) is bfloat16, without a loss scale.')


def _log(message: str) -> None:
    if os.environ.get('RANK', '0') == '0':
        print_log(message)
