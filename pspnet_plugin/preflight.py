"""What ``tools/train.py`` and ``tools/test.py`` add to the stock tools of MMSegmentation.

The stock tool does the work; between its reading of the config and its building of the runner,
:func:`prepare` looks at the datasets and fits the config to a machine without a GPU.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from .errors import PspnetPluginError

# Which data loaders a stock tool reads.
LOADERS = {
    'train.py': ('train_dataloader', 'val_dataloader'),
    'test.py': ('test_dataloader',),
}


class DatasetError(PspnetPluginError):
    """A dataset that the config names is missing or incomplete."""


def run_stock_tool(name: str) -> None:
    """Run ``train.py`` or ``test.py`` of the installed MMSegmentation with ``sys.argv`` as it is.

    Same command line and exit codes as the stock tool; an error of the plugin is printed as one
    message without a traceback, with exit code 1.
    """
    from_cfg = Runner.from_cfg.__func__

    def prepare_and_build(cls, cfg):
        prepare(cfg, LOADERS[name])
        return from_cfg(cls, cfg)

    Runner.from_cfg = classmethod(prepare_and_build)
    try:
        runpy.run_path(str(stock_tools() / name), run_name='__main__')
    except PspnetPluginError as error:
        sys.exit(f'error: {plain_message(error)}')
    finally:
        Runner.from_cfg = classmethod(from_cfg)


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
    """
    check_datasets(cfg, loaders)
    if not torch.cuda.is_available():
        fit_to_cpu(cfg)


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
    named = [*(dataset.get('data_prefix') or {}).values(), dataset.get('ann_file')]
    for path in [root, *(os.path.join(root, part) for part in named if part)]:
        if path and '://' not in path and not os.path.exists(path):
            raise DatasetError(f'{os.path.abspath(path)} does not exist. {way_out}')


def check_pairs(dataset: dict, way_out: str) -> None:
    """Every image that MMSegmentation lists for ``dataset`` exists and has its label map."""
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS

    built = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})
    if not isinstance(built, BaseSegDataset):
        return
    samples = built.load_data_list()
    if not samples:
        folder = os.path.abspath(built.data_prefix.get('img_path') or '')
        raise DatasetError(f'No image *{built.img_suffix} lies in {folder}. {way_out}')
    for sample in samples:
        for kind, key in (('image', 'img_path'), ('label map', 'seg_map_path')):
            path = sample.get(key)
            if path and '://' not in path and not os.path.isfile(path):
                raise DatasetError(
                    f'The {kind} {os.path.abspath(path)} does not exist'
                    + (f' but the image {sample["img_path"]} does' if kind == 'label map' else '')
                    + f'. Add it, or take the image out. {way_out}'
                )


# --- machines without a GPU ---------------------------------------------------------------------


def fit_to_cpu(cfg: Config) -> None:
    """SyncBN becomes BN, and distributed runs use gloo: both need a GPU otherwise."""
    if replace_sync_batch_norm(cfg.model):
        _log('No GPU: SyncBN in the config became BN.')
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


def replace_sync_batch_norm(node) -> int:
    """Set ``type='BN'`` wherever ``node``, a nested config, says SyncBN; how often it did."""
    if isinstance(node, dict):
        here = node.get('type') in ('SyncBN', 'MMSyncBN')
        if here:
            node['type'] = 'BN'
        return here + sum(replace_sync_batch_norm(value) for value in node.values())
    if isinstance(node, (list, tuple)):
        return sum(replace_sync_batch_norm(value) for value in node)
    return 0


def _log(message: str) -> None:
    if os.environ.get('RANK', '0') == '0':
        print_log(message)
