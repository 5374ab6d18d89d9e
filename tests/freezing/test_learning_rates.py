"""The learning rate of a step is the scheduled one times the factor, whatever the schedulers do."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import ExponentialLR, OptimWrapper, build_optim_wrapper
from mmseg.models.backbones import MobileNetV2
from torch import nn

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.freezing import LayerFreezeHook
from tests.helpers.freezing_runs import Net, StockNet, loader, make_runner, watch

ITERATIONS = 12
SCHEDULES = {
    'poly': [{'type': 'PolyLR', 'power': 0.9, 'eta_min': 1e-4, 'by_epoch': False}],
    'linear, cosine': [
        {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 3},
        {'type': 'CosineAnnealingLR', 'eta_min': 1e-3, 'by_epoch': False, 'begin': 3, 'end': 12},
    ],
    'overlapping': [
        {'type': 'MultiStepLR', 'milestones': [3, 7], 'gamma': 0.3, 'by_epoch': False},
        {'type': 'ExponentialLR', 'gamma': 0.9, 'by_epoch': False},
        {'type': 'ConstantLR', 'factor': 0.5, 'end': 5, 'by_epoch': False},
    ],
    'restarts': [
        {
            'type': 'CosineRestartLR',
            'periods': [5, 7],
            'restart_weights': [1, 0.5],
            'eta_min': 1e-4,
            'by_epoch': False,
        }
    ],
    'one cycle': [{'type': 'OneCycleLR', 'eta_max': 0.5, 'total_steps': 12, 'by_epoch': False}],
    'momentum': [
        {'type': 'PolyLR', 'power': 0.9, 'by_epoch': False},
        {'type': 'LinearMomentum', 'start_factor': 0.5, 'by_epoch': False, 'end': 6},
    ],
    'epochs': [{'type': 'StepLR', 'step_size': 1, 'gamma': 0.5, 'by_epoch': True}],
    'none': None,
}
HOOK = {
    'freeze': ['backbone'],
    'schedule': [
        {'at': 2, 'unfreeze': ['backbone.layer3'], 'lr_mult': 0.3},
        {
            'at': 4,
            'unfreeze': ['backbone.layer2', 'backbone.layer3.0'],
            'lr_mult': 0.7,
            'warmup': 3,
        },
        {'at': 9, 'unfreeze': ['backbone.layer2'], 'lr_mult': 1.0},
    ],
    'stage_lr_decay': 0.5,
}


def factor(name, iteration):
    """What HOOK says about a parameter, told by hand."""
    stages = {'stem': 0.5**4, 'layer1': 0.5**3, 'layer2': 0.5**2, 'layer3': 0.5}
    module = name.split('.')[1] if name.startswith('backbone') else None
    result = 1.0
    if iteration >= 2 and module == 'layer3':
        result = 0.3
    if iteration >= 4 and (module == 'layer2' or name.startswith('backbone.layer3.0')):
        result = 0.7 * min(1.0, (iteration - 3) / 4)
    if iteration >= 9 and module == 'layer2':
        result = 1.0
    return result * stages.get(module, 1.0)


@pytest.mark.parametrize('optimizer', ['SGD', 'AdamW'])
@pytest.mark.parametrize('schedule', SCHEDULES, ids=str)
def test_each_step_uses_the_scheduled_rate_times_the_factor(tmp_path, schedule, optimizer):
    settings = {
        'param_scheduler': SCHEDULES[schedule],
        'train_cfg': {'by_epoch': True, 'max_epochs': 2},
        'train_dataloader': loader(),
        'optimizer': {'type': optimizer, 'lr': 0.1},
    }
    _, stock = watch(tmp_path, **settings)
    _, ours = watch(tmp_path, LayerFreezeHook(**HOOK), **settings)
    assert len(stock.lrs) == ITERATIONS
    for iteration, lrs in stock.lrs.items():
        expected = {name: lr * factor(name, iteration) for name, lr in lrs.items()}
        assert ours.lrs[iteration] == pytest.approx(expected, rel=1e-12, abs=0)


def test_the_step_itself_is_scaled(tmp_path):
    """Without momentum, a step is the learning rate times the gradient."""
    steps = {}

    class Step(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.weight = runner.model.head.weight.detach().clone()
            runner.model.head.weight.register_hook(self.see)

        def see(self, gradient):
            self.gradient = gradient.clone()

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            moved = self.weight - runner.model.head.weight.detach()
            steps[runner.iter] = (moved / self.gradient).median().item()

    hook = LayerFreezeHook(
        schedule=[{'at': 2, 'unfreeze': ['head'], 'lr_mult': 0.01}], stage_lr_decay=0.5
    )
    watch(tmp_path, hook, Step(), optimizer={'type': 'SGD', 'lr': 0.5}, max_iters=4)
    assert steps == pytest.approx({0: 0.5, 1: 0.5, 2: 0.005, 3: 0.005}, rel=1e-3)


def test_after_the_run_the_rates_have_the_factors_of_the_last_step(tmp_path):
    hook = LayerFreezeHook(schedule=[{'at': 2, 'unfreeze': ['head'], 'lr_mult': 0.5}])
    runner, watched = watch(tmp_path, hook)
    rates = options(runner.optim_wrapper, runner.model)
    assert {name: values[0] for name, values in rates.items()} == watched.lrs[5]


def test_without_factors_the_groups_stay_as_they_were(tmp_path):
    hook = LayerFreezeHook(freeze=['backbone'], schedule=[{'at': 2, 'unfreeze': ['backbone']}])
    runner, _ = watch(tmp_path, hook, param_scheduler=SCHEDULES['poly'])
    assert len(runner.optim_wrapper.optimizer.param_groups) == 1
    assert runner.optim_wrapper.base_param_settings is None


# --- parameters that the constructor skipped ----------------------------------------------------

PARAMWISE = {
    'norm_decay_mult': 0.0,
    'bias_lr_mult': 2.0,
    'custom_keys': {'layer2': {'lr_mult': 0.1, 'decay_mult': 0.5}},
}


def options(optim_wrapper, model):
    """Learning rate, weight decay and momentum of each parameter by name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group['lr'], group['weight_decay'], group['momentum'])
        for group in optim_wrapper.optimizer.param_groups
        for p in group['params']
    }


def built_frozen():
    net = Net()
    net.backbone.requires_grad_(False)
    return net


@pytest.mark.parametrize('paramwise', [PARAMWISE, None])
@pytest.mark.parametrize('scale', [False, True])
@pytest.mark.parametrize('schedule', ['linear, cosine', 'one cycle'])
def test_skipped_parameters_join_as_the_constructor_would_have_added_them(
    tmp_path, paramwise, scale, schedule
):
    settings = {
        'optim_wrapper': {
            'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.01},
            'paramwise_cfg': paramwise,
        },
        'auto_scale_lr': {'enable': scale, 'base_batch_size': 8},
        'param_scheduler': SCHEDULES[schedule],
    }
    stock, stock_lrs = watch(tmp_path, model=Net(), **settings)
    hook = LayerFreezeHook(schedule=[{'at': 2, 'unfreeze': ['backbone']}])
    ours, our_lrs = watch(tmp_path, hook, model=built_frozen(), **settings)
    for iteration, lrs in stock_lrs.lrs.items():
        assert our_lrs.lrs[iteration] == pytest.approx(lrs, rel=1e-12)
    stock_options = options(stock.optim_wrapper, stock.model)
    for name, values in options(ours.optim_wrapper, ours.model).items():
        assert values == pytest.approx(stock_options.pop(name), rel=1e-12)
    assert not stock_options
    assert 'backbone.layer1.0.weight' not in our_lrs.changed[1]
    assert 'backbone.layer1.0.weight' in our_lrs.changed[2]


def test_skipped_parameters_join_an_optimizer_built_by_hand_with_its_defaults(tmp_path):
    net = built_frozen()
    groups = [{'params': [net.head.weight], 'lr': 0.5}, {'params': [net.head.bias]}]
    wrapper = OptimWrapper(torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01))
    hook = LayerFreezeHook(schedule=[{'at': 2, 'unfreeze': ['backbone']}])
    runner, _ = watch(tmp_path, hook, model=net, optim_wrapper=wrapper)
    joined = options(runner.optim_wrapper, net)
    assert joined.pop('head.weight') == (0.5, 0.01, 0.9)
    assert set(joined) == {n for n, _ in net.named_parameters() if n != 'head.weight'}
    assert set(joined.values()) == {(0.1, 0.01, 0.9)}


def test_schedulers_built_by_hand_are_refused_only_where_groups_would_change(tmp_path):
    def settings():
        net = Net()
        wrapper = OptimWrapper(torch.optim.SGD(net.parameters(), lr=0.1))
        schedulers = [ExponentialLR(wrapper, gamma=0.5, by_epoch=False)]
        return {'model': net, 'optim_wrapper': wrapper, 'param_scheduler': schedulers}

    _, watched = watch(tmp_path, LayerFreezeHook(freeze=['backbone']), **settings())
    assert watched.lrs[2]['head.weight'] == 0.025
    with pytest.raises(PspnetPluginError, match='scheduler .* is built already'):
        watch(tmp_path, LayerFreezeHook(stage_lr_decay=0.5), **settings())


def test_frozen_stages_of_a_backbone_can_be_unfrozen(tmp_path):
    hook = LayerFreezeHook(schedule=[{'at': 2, 'unfreeze': ['backbone.layer2']}])
    net = StockNet(frozen_stages=2, zero_init_residual=False)
    wrapper = {'optimizer': {'type': 'SGD', 'lr': 0.1}, 'paramwise_cfg': PARAMWISE}
    wrapper['optimizer'].update(momentum=0.9, weight_decay=0.01)
    _, watched = watch(tmp_path, hook, model=net, optim_wrapper=wrapper, max_iters=4)
    frozen = {n for n in net.state_dict() if n.startswith(('backbone.conv1', 'backbone.bn1'))}
    frozen |= {n for n in net.state_dict() if n.startswith('backbone.layer1')}
    second = {n for n in net.state_dict() if n.startswith('backbone.layer2')}
    for iteration in range(4):
        assert not watched.changed[iteration] & frozen
        assert watched.changed[iteration] & second == (second if iteration >= 2 else set())


def test_a_backbone_that_freezes_only_when_it_trains_can_be_unfrozen(tmp_path):
    net = Net()
    net.backbone = nn.Sequential(MobileNetV2(widen_factor=0.1, out_indices=(1,), frozen_stages=1))
    net.backbone.append(FirstOf(8, 4))
    hook = LayerFreezeHook(schedule=[{'at': 2, 'unfreeze': ['*.layer1']}])
    _, watched = watch(tmp_path, hook, model=net, max_iters=3)
    first = {name for name in net.state_dict() if name.startswith('backbone.0.layer1')}
    assert [bool(watched.changed[t] & first) for t in range(3)] == [False, False, True]
    assert not any(name.startswith('backbone.0.conv1') for name in watched.changed[2])


class FirstOf(nn.Conv2d):
    """A 1 x 1 convolution over the first of several maps."""

    def __init__(self, *channels):
        super().__init__(*channels, 1)

    def forward(self, maps):
        return super().forward(maps[0])


def test_parameters_that_no_optimizer_of_several_holds_are_refused(tmp_path):
    net = built_frozen()
    wrappers = {
        name: build_optim_wrapper(part, {'optimizer': {'type': 'SGD', 'lr': 0.1}})
        for name, part in (('one', net.head), ('two', nn.Linear(2, 2)))
    }
    hook = LayerFreezeHook(schedule=[{'at': 2, 'unfreeze': ['backbone']}])
    with pytest.raises(PspnetPluginError, match='one, two'):
        watch(tmp_path, hook, model=net, optim_wrapper=wrappers)


class TwoOptimizers(Net):
    def train_step(self, data, optim_wrapper):
        loss = self(**data)['loss']
        for wrapper in optim_wrapper.values():
            wrapper.zero_grad()
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
        return {'loss': loss.detach()}


def test_several_optimizers_are_scaled_alike(tmp_path):
    def wrappers(net):
        return {
            'backbone': build_optim_wrapper(
                net.backbone, {'optimizer': {'type': 'SGD', 'lr': 0.1}}
            ),
            'head': build_optim_wrapper(net.head, {'optimizer': {'type': 'AdamW', 'lr': 0.01}}),
        }

    class See(Hook):
        priority = 'LOWEST'
        seen = {}

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.seen[runner.iter] = {
                name: [group['lr'] for group in wrapper.optimizer.param_groups]
                for name, wrapper in runner.optim_wrapper.items()
            }

    net = TwoOptimizers()
    hook = LayerFreezeHook(
        freeze=['backbone'], schedule=[{'at': 2, 'unfreeze': ['backbone.layer3'], 'lr_mult': 0.1}]
    )
    runner = make_runner(
        tmp_path,
        hook,
        See(),
        model=net,
        max_iters=4,
        optim_wrapper=wrappers(net),
        param_scheduler=[{'type': 'ExponentialLR', 'gamma': 0.5, 'by_epoch': False}],
    )
    runner.train()
    assert See.seen[1] == {'backbone': [0.05, 0.05], 'head': [0.005]}
    assert See.seen[2] == {'backbone': [0.025, 0.025 * 0.1], 'head': [0.0025]}


def test_the_table_tells_the_learning_rates_of_the_step(tmp_path):
    hook = LayerFreezeHook(
        freeze=['backbone'], schedule=[{'at': 2, 'unfreeze': ['backbone.layer3'], 'lr_mult': 0.125}]
    )
    runner = make_runner(tmp_path, hook, log_level='INFO', experiment_name='told')
    runner.train()
    log = next(tmp_path.rglob('*.log')).read_text()
    total = sum(p.numel() for p in runner.model.parameters())
    tables = log.split('From iteration ')[1:]
    assert len(tables) == 2
    first, second = ([' '.join(line.split()) for line in table.split('\n')] for table in tables)
    head = sum(p.numel() for p in runner.model.head.parameters())
    layer3 = sum(p.numel() for p in runner.model.backbone.layer3.parameters())
    assert first[0] == f'0 on, {head:,} parameters train and {total - head:,} are frozen:'
    assert f'| backbone | {total - head:,} | frozen | |' in first
    assert f'| backbone.layer3 | {layer3:,} | trainable | 0.0125 |' in second
    assert f'| head | {head:,} | trainable | 0.1 |' in second
