"""Frozen layers stay frozen whatever calls ``train``, and copies of a network are independent."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mmengine.hooks import Hook

from pspnet_plugin.freezing import LayerFreezeHook
from pspnet_plugin.freezing.enforce import hold_statistics
from tests.helpers.freezing_runs import Backbone, Net, loader, under, watch


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


class TrainUnfreezes(Net):
    """As models whose ``train`` sets ``requires_grad``, here only in one of the two modes."""

    def __init__(self, mode):
        super().__init__()
        self.unfreezing_mode = mode

    def train(self, mode=True):
        if mode == self.unfreezing_mode:
            self.backbone.requires_grad_(True)
        return super().train(mode)

    def val_step(self, data):
        return [0]


class UnfreezeAfterEachStep(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.model.backbone.requires_grad_(True)


VALIDATION = {
    'val_dataloader': loader(),
    'val_cfg': {},
    'val_evaluator': {'type': 'DumpResults', 'out_file_path': 'unused.pkl'},
}


@pytest.mark.parametrize('by_epoch', [False, True])
@pytest.mark.parametrize('undone', ['by train()', 'by eval()', 'by a hook'])
def test_what_turns_gradients_on_again_does_not_unfreeze(tmp_path, monkeypatch, undone, by_epoch):
    monkeypatch.chdir(tmp_path)
    settings = dict(VALIDATION) if undone == 'by eval()' else {}
    if by_epoch:
        settings['train_cfg'] = {'by_epoch': True, 'max_epochs': 2}
        settings['train_dataloader'] = loader()
    else:
        settings['train_cfg'] = {'by_epoch': False, 'max_iters': 12, 'val_interval': 4}
    hooks = [LayerFreezeHook(freeze=['backbone'])]
    if undone == 'by a hook':
        hooks.append(UnfreezeAfterEachStep())
    net = {'by train()': TrainUnfreezes(True), 'by eval()': TrainUnfreezes(False)}.get(undone)
    _, watched = watch(tmp_path, *hooks, model=net, **settings)
    assert sorted(watched.changed) == list(range(12))
    for changed in watched.changed.values():
        assert 'head.weight' in changed
        assert not under('backbone', changed)


def test_a_layer_that_trains_again_takes_the_mode_of_the_last_call_of_train(tmp_path):
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
    original, copied = runner.model.backbone, copy.deepcopy(runner.model.backbone)
    copied.train()
    assert copied.layer1.training
    assert not copied.layer1[1].training
    hold_statistics(copied, frozenset())
    copied.train()
    original.train()
    assert copied.layer1[1].training
    assert not original.layer1[1].training


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
            average.train()
            looked['all train'] = all(m.training for m in average.modules())
            looked['equal'] = all(
                torch.equal(a, b)
                for a, b in zip(
                    average.module.backbone.parameters(), runner.model.backbone.parameters()
                )
            )

    watch(tmp_path, LayerFreezeHook(freeze=['backbone']), {'type': 'EMAHook'}, Look())
    assert looked == {'all train': True, 'equal': True}
