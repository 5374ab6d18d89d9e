"""What docs/runs.md says of random numbers after a resume, for mmengine's own loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from tests.helpers.freezing_runs import Noise, loader, make_runner


class Augmented(Noise):
    """Images with a random brightness, as numpy draws it for most transforms."""

    def __getitem__(self, index):
        return {'x': super().__getitem__(index)['x'] * np.random.uniform(1, 2)}


class Draws(Hook):
    """For each iteration which images came, their brightness, and what dropout would draw."""

    def __init__(self):
        self.images, self.brightness, self.dropout = {}, {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        images = data_batch['x'].flatten(1)
        self.images[runner.iter] = (images / images.norm(dim=1, keepdim=True))[:, 0].tolist()
        self.brightness[runner.iter] = images.norm(dim=1).tolist()
        self.dropout[runner.iter] = torch.rand(1).item()


def draws(work_dir, by_epoch, **settings):
    data = loader('DefaultSampler' if by_epoch else 'InfiniteSampler')
    data['dataset'], data['sampler']['shuffle'] = Augmented(), True
    length = {'max_epochs': 2} if by_epoch else {'max_iters': 12}
    saving = {'type': 'CheckpointHook', 'interval': 1 if by_epoch else 6, 'by_epoch': by_epoch}
    noted = Draws()
    make_runner(
        work_dir,
        noted,
        train_dataloader=data,
        train_cfg={'by_epoch': by_epoch, **length},
        default_hooks={'checkpoint': saving},
        randomness={'seed': 3},
        **settings,
    ).train()
    return noted


@pytest.mark.parametrize('by_epoch', [False, True])
def test_the_order_of_images_is_restored_and_dropout_begins_again(tmp_path, by_epoch):
    whole = draws(tmp_path / 'whole', by_epoch)
    last = 'epoch_1' if by_epoch else 'iter_6'
    saved = tmp_path / 'whole' / f'{last}.pth'
    resumed = draws(tmp_path / 'resumed', by_epoch, resume=True, load_from=str(saved))
    rest = range(6, 12)
    assert sorted(resumed.images) == list(rest)
    for t in rest:
        assert resumed.images[t] == pytest.approx(whole.images[t])
    same = [resumed.brightness[t] == pytest.approx(whole.brightness[t]) for t in rest]
    assert all(same) if not by_epoch else not any(same)
    assert not any(resumed.dropout[t] == whole.dropout[t] for t in rest)
