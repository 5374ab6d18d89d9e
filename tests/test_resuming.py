"""What docs/runs.md says that a resumed run restores and does not, for mmengine's own loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from tests.helpers.checkpoints import last_state
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
    # The fork of mmengine passes the images before over, by the sampler, without reading them.
    reads_again = not by_epoch and not hasattr(InfiniteSampler, 'skip')
    assert all(same) if reads_again else not any(same)
    assert not any(resumed.dropout[t] == whole.dropout[t] for t in rest)


def ends_the_same(folder, interrupted, *hooks, **settings):
    """Whether runs that are resumed from these iterations end with the weights of a whole one."""
    saving = {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}
    settings = {'default_hooks': {'checkpoint': saving}, 'max_iters': 8, **settings}

    def final_weight(name, **start):
        make_runner(folder / name, *hooks, **settings, **start).train()
        return last_state(folder / name)['state_dict']['head.weight']

    whole, saved = final_weight('whole'), [str(folder / f'whole/iter_{t}.pth') for t in interrupted]
    resumed = [final_weight(f'from{n}', resume=True, load_from=f) for n, f in enumerate(saved)]
    return [torch.equal(weight, whole) for weight in resumed]


def test_gradients_that_were_being_accumulated_are_not_restored(tmp_path):
    sgd = {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}
    accumulating = {'optim_wrapper': {'optimizer': sgd, 'accumulative_counts': 2}}
    assert ends_the_same(tmp_path, (3, 4), **accumulating) == [False, True]


class SameEachTime(BaseMetric):
    """A metric that never improves, so that every validation but the first lowers the rate."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'score': 1.0}


def test_a_checkpoint_does_not_hold_what_the_validation_after_it_decides(tmp_path):
    settings = {
        'train_cfg': {'by_epoch': False, 'max_iters': 8, 'val_interval': 2},
        'val_dataloader': loader(),
        'val_cfg': {},
        'val_evaluator': [SameEachTime()],
        'param_scheduler': [
            {'type': 'ReduceOnPlateauLR', 'monitor': 'score', 'rule': 'greater', 'patience': 0}
        ],
    }
    gradual = {'type': 'LayerFreezeHook', 'freeze': 'backbone'}
    gradual['schedule'] = [{'at': 4, 'unfreeze': 'backbone', 'lr_mult': 0.5}]
    assert ends_the_same(tmp_path, (4, 5), gradual, **settings) == [False, True]
