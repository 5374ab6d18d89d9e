"""Frozen layers keep their statistics, and copies of a frozen network are free of it."""

from __future__ import annotations

import copy
import pickle

import torch
from mmengine.hooks import Hook

from pspnet_plugin.freezing import LayerFreezeHook
from tests.helpers.freezing_runs import Backbone, Net, under, watch


class CallTrain(Hook):
    """Calls train() wherever a hook can, as users and mmengine's loops do."""

    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.model.train()
        runner.model.backbone.train(True)
        runner.model.backbone.layer1[1].train()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.model.eval()
        runner.model.train()


def test_no_call_of_train_makes_frozen_statistics_move(tmp_path):
    hook = LayerFreezeHook(
        freeze=['backbone'], schedule=[{'at': 3, 'unfreeze': ['backbone.layer3']}]
    )
    _, watched = watch(tmp_path, hook, CallTrain(), max_iters=5)
    for iteration in range(5):
        moved = {n for n in watched.changed[iteration] if 'running' in n or 'tracked' in n}
        assert moved == (under('backbone.layer3.1', moved) if iteration >= 3 else set())
        assert bool(moved) == (iteration >= 3)


def test_without_norm_eval_only_the_statistics_move(tmp_path):
    _, watched = watch(tmp_path, LayerFreezeHook(freeze=['backbone'], norm_eval=False))
    moved = under('backbone', watched.changed[0])
    assert moved
    assert all(name.split('.')[-1].startswith(('running_', 'num_batches')) for name in moved)


def test_a_freed_layer_takes_the_mode_it_was_last_asked_for(tmp_path):
    class KeepsEval(Backbone):
        """As backbones with norm_eval do."""

        def train(self, mode=True):
            super().train(mode)
            self.layer2[1].eval()
            return self

    net = Net()
    net.backbone = KeepsEval()
    hook = LayerFreezeHook(freeze=['backbone'], schedule=[{'at': 2, 'unfreeze': 'backbone'}])
    _, watched = watch(tmp_path, hook, model=net, max_iters=4)
    assert 'backbone.layer1.1.running_mean' in watched.changed[2]
    assert 'backbone.layer2.1.running_mean' not in watched.changed[2] | watched.changed[3]


def test_a_deep_copy_of_a_frozen_network_is_not_tied_to_it(tmp_path):
    runner, _ = watch(tmp_path, LayerFreezeHook(freeze=['backbone']))
    norm = runner.model.backbone.layer1[1]
    copied = copy.deepcopy(runner.model.backbone.layer1)[1]
    norm.eval()
    copied.train()
    assert copied.train.module is copied
    assert not copied.training
    copied.train.release()
    copied.train()
    assert copied.training
    assert not norm.training


def test_a_frozen_network_can_be_pickled(tmp_path):
    runner, _ = watch(tmp_path, LayerFreezeHook(freeze=['backbone']))
    read = pickle.loads(pickle.dumps(runner.model.backbone))
    read.train()
    assert read.layer1.training
    assert not read.layer1[1].training


def test_the_moving_average_of_a_model_is_not_frozen_with_it(tmp_path):
    looked = {}

    class Look(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            average = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook').ema_model
            looked['tied'] = [m for m in average.modules() if 'train' in vars(m)]
            looked['equal'] = all(
                torch.equal(a, b)
                for a, b in zip(
                    average.module.backbone.parameters(), runner.model.backbone.parameters()
                )
            )

    watch(tmp_path, LayerFreezeHook(freeze=['backbone']), {'type': 'EMAHook'}, Look())
    assert looked == {'tied': [], 'equal': True}
