"""Tiny networks and runs of mmengine's own Runner for the tests of this folder."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmseg.models.backbones import ResNet
from torch import nn
from torch.utils.data import Dataset


class Noise(Dataset):
    """Twelve fixed images of noise."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return {'x': torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(index))}


def stage(width_in, width_out):
    return nn.Sequential(
        nn.Conv2d(width_in, width_out, 3, padding=1), nn.BatchNorm2d(width_out), nn.ReLU()
    )


class Backbone(nn.Module):
    """A stem and three stages, each a convolution with batch norm."""

    def __init__(self):
        super().__init__()
        self.stem = stage(3, 4)
        self.layer1 = stage(4, 4)
        self.layer2 = stage(4, 6)
        self.layer3 = stage(6, 4)

    def forward(self, x):
        return self.layer3(self.layer2(self.layer1(self.stem(x))))


class Net(BaseModel):
    """A backbone and a head; the loss pulls the output to 1."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Backbone()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x, mode='loss'):
        out = self.head(self.backbone(x))
        return {'loss': (out - 1).square().mean()} if mode == 'loss' else out


class StockNet(Net):
    """MMSegmentation's own ResNet-18, narrow, in place of the backbone."""

    def __init__(self, **options):
        super().__init__()
        narrow = {'stem_channels': 4, 'base_channels': 4, 'strides': (1, 1, 1, 1)}
        self.backbone = ResNet(18, **{**narrow, 'norm_eval': False, **options})
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, x, mode='loss'):
        return {'loss': (self.head(self.backbone(x)[-1]) - 1).square().mean()}


PARTS = ('backbone.stem', 'backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'head')


def loader(sampler='DefaultSampler'):
    """Config of a loader of the noise images: 6 batches of 2, in order."""
    return {
        'dataset': Noise(),
        'batch_size': 2,
        'num_workers': 0,
        'sampler': {'type': sampler, 'shuffle': False},
        'collate_fn': {'type': 'default_collate'},
    }


def double_precision_net():
    """In float64 every gradient is large enough to change a weight."""
    net = Net().double()
    net.data_preprocessor.cast_data = lambda data: {'x': data['x'].double()}
    return net


def make_runner(work_dir, *hooks, model=None, max_iters=6, optimizer=None, **settings):
    """A runner on the noise images; by default SGD with momentum and weight decay."""
    optimizer = optimizer or {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.01}
    default_hooks = {'logger': None, 'timer': None, 'checkpoint': None}
    default_hooks.update(settings.pop('default_hooks', {}))
    arguments = {
        'model': model or Net(),
        'work_dir': str(work_dir),
        'train_dataloader': loader('InfiniteSampler'),
        'train_cfg': {'by_epoch': False, 'max_iters': max_iters},
        'optim_wrapper': {'optimizer': optimizer},
        'custom_hooks': list(hooks),
        'default_hooks': default_hooks,
        'experiment_name': f'run{next(_numbers)}',
        'log_level': 'ERROR',
    }
    return Runner(**{**arguments, **settings})


def saving(interval):
    """The setting of :func:`make_runner` for a checkpoint after every so many iterations."""
    hook = {'type': 'CheckpointHook', 'interval': interval, 'by_epoch': False}
    return {'default_hooks': {'checkpoint': hook}}


_numbers = iter(range(10**6))


class Changes(Hook):
    """For each iteration, the names of the parameters and buffers that it changed."""

    priority = 'LOWEST'

    def __init__(self):
        self.changed = {}
        self.lrs = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._before = {name: t.clone() for name, t in runner.model.state_dict().items()}
        names = {id(p): name for name, p in runner.model.named_parameters()}
        self.lrs[runner.iter] = {
            names[id(p)]: group['lr']
            for group in runner.optim_wrapper.optimizer.param_groups
            for p in group['params']
        }

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        after = runner.model.state_dict()
        self.changed[runner.iter] = {
            name for name, t in after.items() if not torch.equal(t, self._before[name])
        }


def watch(tmp_path, *hooks, **settings):
    """Run, and return what each iteration changed, and the learning rates it used."""
    changes = Changes()
    runner = make_runner(tmp_path, *hooks, changes, **settings)
    runner.train()
    return runner, changes


def under(part, names):
    """Those names that lie under a part of the model."""
    return {name for name in names if name.startswith(f'{part}.')}
