"""The hook serves a plain mmengine project in which mmseg and mmcv are not installed."""

from __future__ import annotations

import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.helpers.processes import ROOT

PROJECT = """
import importlib.util

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn

for absent in ('mmseg', 'mmcv', 'mmcv_lite'):
    assert importlib.util.find_spec(absent) is None, absent


@DATASETS.register_module()
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.randn(4, generator=torch.Generator().manual_seed(index)))


@MODELS.register_module()
class TwoLayers(BaseModel):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 1)

    def forward(self, x, mode='loss'):
        return dict(loss=self.head(self.body(x)).square().mean())


@HOOKS.register_module()
class Tell(Hook):
    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before = {n: t.clone() for n, t in runner.model.state_dict().items()}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        after = runner.model.state_dict()
        print('CHANGED', sorted({n[:4] for n in after if not after[n].equal(self.before[n])}))


Runner.from_cfg(Config.fromfile('config.py')).train()
"""
CONFIG = """
custom_imports = dict(imports=['pspnet_plugin'])
model = dict(type='TwoLayers')
train_dataloader = dict(
    batch_size=4, num_workers=0, dataset=dict(type='Numbers'),
    sampler=dict(type='InfiniteSampler'), collate_fn=dict(type='default_collate'))
train_cfg = dict(by_epoch=False, max_iters=4)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1))
custom_hooks = [
    dict(type='LayerFreezeHook', freeze=['body'],
         schedule=[dict(at=0.5, unfreeze=['body'], lr_mult=0.1)]),
    dict(type='Tell')]
work_dir = 'work'
"""


@pytest.fixture
def python_without_mmseg(tmp_path) -> Path:
    """The interpreter of an environment that has everything of this one but mmseg and mmcv."""
    venv.create(tmp_path / 'env', with_pip=False)
    target = next((tmp_path / 'env').glob('lib/python*/site-packages'))
    for folder in {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}:
        for entry in Path(folder).iterdir():
            left_out = entry.name.lower().startswith(('mmseg', 'mmcv'))
            if not left_out and not (target / entry.name).exists():
                (target / entry.name).symlink_to(entry)
    return tmp_path / 'env' / 'bin' / 'python'


def test_a_plain_mmengine_project_can_freeze(tmp_path, python_without_mmseg):
    (tmp_path / 'project.py').write_text(PROJECT)
    (tmp_path / 'config.py').write_text(CONFIG)
    done = subprocess.run(
        [python_without_mmseg, 'project.py'],
        cwd=tmp_path,
        env={'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    changed = [line for line in done.stdout.splitlines() if line.startswith('CHANGED')]
    assert changed == ["CHANGED ['head']"] * 2 + ["CHANGED ['body', 'head']"] * 2
