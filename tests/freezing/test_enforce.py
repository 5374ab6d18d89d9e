"""Frozen layers stay frozen whatever calls ``train``, and copies of a network are independent."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from pspnet_plugin.freezing import LayerFreezeHook
from pspnet_plugin.freezing.enforce import fixed_as_built, hold_statistics
from pspnet_plugin.freezing.report import describe
from tests.helpers.freezing_runs import Backbone, Net, StockNet, loader, under, watch


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


@pytest.mark.parametrize('again', [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_a_copy_of_a_frozen_network_is_frozen_and_not_tied_to_it(tmp_path, again):
    runner, _ = watch(tmp_path, LayerFreezeHook(freeze=['backbone']))
    original, copied = runner.model.backbone, again(runner.model.backbone)
    copied.train()
    assert copied.layer1.training
    assert not copied.layer1[1].training
    hold_statistics(copied, frozenset())
    copied.train()
    original.train()
    assert copied.layer1[1].training
    assert not original.layer1[1].training


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


def test_norms_without_parameters_in_frozen_stages_stay_frozen_until_unfrozen(tmp_path):
    def net():
        return StockNet(norm_cfg={'type': 'BN', 'affine': False}, frozen_stages=1)

    _, stock = watch(tmp_path, model=net(), max_iters=1)
    hook = LayerFreezeHook(schedule=[{'at': 2, 'unfreeze': 'backbone.layer1'}])
    _, watched = watch(tmp_path, hook, model=net(), max_iters=3)
    assert watched.changed[0] == watched.changed[1] == stock.changed[0]
    assert 'backbone.layer1.0.bn1.running_mean' in watched.changed[2] - watched.changed[1]
    assert 'backbone.bn1.running_mean' not in watched.changed[2]


@pytest.mark.parametrize('part', ['backbone.layer1', 'backbone.layer3'])
def test_statistics_that_two_norms_share_are_held_when_one_of_them_is_frozen(tmp_path, part):
    class Shares(Net):
        def __init__(self):
            super().__init__()
            self.backbone.layer3[1]._buffers.update(self.backbone.layer1[1]._buffers)

    _, watched = watch(tmp_path, LayerFreezeHook(freeze=[part]), model=Shares())
    changed = set().union(*watched.changed.values())
    assert 'backbone.layer2.1.running_mean' in changed
    assert not {f'backbone.layer{n}.1.running_mean' for n in (1, 3)} & changed


# --- constants of the architecture --------------------------------------------------------------


class WithPositions(Net):
    """A backbone with a position embedding that is a parameter and is never trained."""

    def __init__(self, frozen=False):
        super().__init__()
        self.backbone.pos_embed = nn.Parameter(torch.ones(1, 4, 9, 9), requires_grad=False)
        self.backbone.layer2.requires_grad_(not frozen)

    def forward(self, x, mode='loss'):
        inside = self.backbone
        features = inside.layer1(inside.stem(x) + inside.pos_embed)
        out = self.head(inside.layer3(inside.layer2(features)))
        return {'loss': (out - 1).square().mean()}


@pytest.mark.parametrize('freeze', [[], ['backbone']])
@pytest.mark.parametrize('pattern', ['backbone', 'backbone.*'])
def test_a_fixed_position_embedding_is_not_unfrozen_with_its_module(tmp_path, freeze, pattern):
    hook = LayerFreezeHook(freeze=freeze, schedule=[{'at': 1, 'unfreeze': [pattern]}])
    runner, watched = watch(tmp_path, hook, model=WithPositions(frozen=True), max_iters=3)
    changed = set().union(*watched.changed.values())
    assert 'backbone.layer2.0.weight' in watched.changed[1] - watched.changed[0]
    assert 'backbone.pos_embed' not in changed
    fixed = hook.timeline.only_fixed(2)
    table = describe(runner.model, [runner.optim_wrapper.optimizer], 2, fixed)
    rows = [' '.join(line.split()) for line in table.splitlines()]
    assert '| backbone.pos_embed | 324 | fixed as built | |' in rows
    assert not any('| frozen |' in row for row in rows)


@pytest.mark.parametrize('pattern', ['backbone.pos_embed', '*.pos_embed'])
def test_a_fixed_parameter_trains_where_the_schedule_names_it(tmp_path, pattern):
    hook = LayerFreezeHook(freeze=['backbone'], schedule=[{'at': 1, 'unfreeze': [pattern]}])
    _, watched = watch(tmp_path, hook, model=WithPositions(), max_iters=3)
    assert 'backbone.pos_embed' in watched.changed[1] - watched.changed[0]
    assert 'backbone.stem.0.weight' not in watched.changed[1]


def test_the_fixed_embedding_of_a_masked_autoencoder_is_known():
    from mmpretrain.models import MAEViT

    names = fixed_as_built(nn.ModuleDict({'backbone': MAEViT('b', img_size=32, patch_size=16)}))
    assert names == {'backbone.pos_embed'}
