"""FlexibleRunner trains a tiny PSPNet, sharded by FSDP."""

from __future__ import annotations

import torch
from mmengine.runner import FlexibleRunner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

import pspnet_plugin  # noqa: F401  registers
from pspnet_plugin.compat.several_processes import gloo_without_a_gpu

MODEL = {
    'type': 'EncoderDecoder',
    'data_preprocessor': {'type': 'SegDataPreProcessor', 'size': (64, 64)},
    'backbone': {'type': 'ResNet', 'depth': 18, 'base_channels': 8, 'stem_channels': 8},
    'decode_head': {
        'type': 'FactorizedPSPHead',
        **{'in_channels': 64, 'in_index': 3, 'channels': 16, 'num_classes': 19},
    },
    'test_cfg': {'mode': 'whole'},
}


class Scenes(torch.utils.data.Dataset):
    """Eight images of noise with random labels."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        sample = SegDataSample(metainfo={'img_shape': (64, 64), 'ori_shape': (64, 64)})
        labels = torch.randint(0, 19, (1, 64, 64), generator=generator)
        sample.gt_sem_seg = PixelData(data=labels)
        return {'inputs': torch.randn(3, 64, 64, generator=generator), 'data_samples': sample}


def main(folder: str) -> None:
    with gloo_without_a_gpu():
        make_runner(folder).train()


def make_runner(folder: str) -> FlexibleRunner:
    weights = {'type': 'PretrainedBackbone', 'checkpoint': f'{folder}/backbone.pth'}
    return FlexibleRunner(
        {**MODEL, 'backbone': {**MODEL['backbone'], 'init_cfg': weights}},
        work_dir=folder,
        strategy={
            'type': 'FSDPStrategy',
            'state_dict_cfg': 'full',
            'model_wrapper': {
                'type': 'MMFullyShardedDataParallel',
                'device_id': torch.device('cpu'),
            },
        },
        train_dataloader={
            **{'dataset': Scenes(), 'batch_size': 2, 'num_workers': 0},
            'sampler': {'type': 'InfiniteSampler', 'shuffle': False},
            'collate_fn': {'type': 'pseudo_collate'},
        },
        train_cfg={'by_epoch': False, 'max_iters': 3},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.01}},
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'interval': 3, 'by_epoch': False}},
        launcher='pytorch',
        env_cfg={'dist_cfg': {'backend': 'gloo'}},
        default_scope='mmseg',
        experiment_name='sharded',
    )
