"""A config for a GPU, changed so that it runs on a machine without one."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from ...speed.cpu_amp import CpuAmpOptimWrapper, bfloat16_on_this_cpu
from ...utils.config_tree import dicts_within
from ...utils.distributed import is_first_process


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
        _log(
            'No GPU: mixed precision (--amp) is bfloat16, without a loss scale. '
            + bfloat16_on_this_cpu()
        )


def _log(message: str) -> None:
    if is_first_process():
        print_log(message)
