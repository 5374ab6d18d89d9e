"""A tiny model with a real backbone, and runs of mmengine's own Runner."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from tests.helpers import freezing_runs
from tests.helpers.freezing_runs import loader, saving
from tests.helpers.networks import NARROW_RESNET, build


class Noise(Dataset):
    """Four fixed images, with the class names of a dataset."""

    metainfo = {'classes': ('sky', 'sea')}

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {'x': torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))}


class Net(BaseModel):
    """A narrow ResNet-18 of MMSegmentation and a linear head."""

    def __init__(self, init_cfg=None, backbone=None):
        super().__init__()
        self.backbone = backbone or build(**NARROW_RESNET, init_cfg=init_cfg)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x, mode='loss'):
        features = self.backbone(x)
        out = self.head(features[-1] if isinstance(features, (tuple, list)) else features)
        return {'loss': out.square().mean()} if mode == 'loss' else out


class Start(Hook):
    """Keeps the weights that the training starts from."""

    priority = 'LOWEST'

    def before_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        self.weights = {name: t.clone() for name, t in model.state_dict().items()}


def make_runner(work_dir: Path, *hooks, model=None, lr=0.0, **settings) -> Runner:
    """A runner of two iterations on the images; with a learning rate of 0 nothing is learnt."""
    usual = {
        'train_dataloader': {**loader('InfiniteSampler'), 'dataset': Noise()},
        'train_cfg': {'by_epoch': False, 'max_iters': 2},
        'optimizer': {'type': 'SGD', 'lr': lr},
        'log_level': 'INFO',
    }
    model = model or Net()
    return freezing_runs.make_runner(work_dir, *hooks, model=model, **{**usual, **settings})


# For runs whose checkpoints matter.
SAVING = saving(1)


def start_of(work_dir: Path, *hooks, **settings) -> dict[str, torch.Tensor]:
    """Train, and return the weights that the training started from."""
    start = Start()
    make_runner(work_dir, *hooks, start, **settings).train()
    return start.weights
