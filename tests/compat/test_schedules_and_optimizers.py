"""Checkpoints with the state of every scheduler and optimizer are read again, as they were."""

from __future__ import annotations

import inspect

import mmengine.optim  # noqa: F401  registers them
import pytest
import torch
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from mmengine.runner.checkpoint import CheckpointLoader, save_checkpoint
from torch import nn

SCHEDULER_ARGUMENTS = {
    'CosineAnnealing': {'T_max': 4},
    'CosineRestart': {'periods': [2, 4], 'restart_weights': [1, 1], 'eta_min': 0.001},
    'Exponential': {'gamma': 0.9},
    'MultiStep': {'milestones': [1, 3]},
    'OneCycle': {'eta_max': 0.1, 'total_steps': 8},
    'ReduceOnPlateau': {'patience': 0},
    'Step': {'step_size': 2},
}
TORCH_ARGUMENTS = {
    'ChainedScheduler': None,  # they take other schedulers
    'SequentialLR': None,
    'CosineAnnealingLR': {'T_max': 4},
    'CosineAnnealingWarmRestarts': {'T_0': 2},
    'CyclicLR': {'base_lr': 0.01, 'max_lr': 0.1},
    'ExponentialLR': {'gamma': 0.9},
    'LambdaLR': {'lr_lambda': lambda step: 0.9**step},
    'MultiStepLR': {'milestones': [1, 3]},
    'MultiplicativeLR': {'lr_lambda': lambda step: 0.9},
    'OneCycleLR': {'max_lr': 0.1, 'total_steps': 8},
    'StepLR': {'step_size': 2},
}
OPTIMIZERS_APART = ('Optimizer', 'ZeroRedundancyOptimizer')  # no method; needs several processes


def torch_schedulers():
    kinds = vars(torch.optim.lr_scheduler).values()
    bases = {'LRScheduler', '_LRScheduler'}
    return sorted(
        kind.__name__
        for kind in kinds
        if inspect.isclass(kind)
        and kind.__module__ == 'torch.optim.lr_scheduler'
        and hasattr(kind, 'load_state_dict')
        and kind.__name__ not in bases
    )


def optimizer_of(kind='SGD', **options):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.rand(4, 4))  # Muon takes matrices
    options = {'momentum': 0.9, **options} if kind == 'SGD' else options
    return OPTIMIZERS.get(kind)([weight], lr=0.05, **options)


def train(optimizer, *schedulers, steps=3):
    weight = optimizer.param_groups[0]['params'][0]
    for _ in range(steps):

        def closure():
            optimizer.zero_grad()
            loss = (weight - 1).square().sum()
            loss.backward()
            if type(optimizer).__name__ == 'SparseAdam':
                weight.grad = weight.grad.to_sparse()
            return loss

        loss = optimizer.step(closure)
        for scheduler in schedulers:
            by_value = 'Plateau' in type(scheduler).__name__
            ours = type(scheduler).__module__.startswith('mmengine')
            values = ({'loss': float(loss)},) if ours else (float(loss),)
            scheduler.step(*values if by_value else ())
    return weight.detach().clone(), optimizer.param_groups[0]['lr']


def require_round_trip(tmp_path, make):
    """Three steps, a checkpoint, three more; and the same by way of the checkpoint."""
    path = tmp_path / 'iter_3.pth'
    optimizer, *schedulers = make()
    train(optimizer, *schedulers)
    content = {
        'state_dict': {'weight': optimizer.param_groups[0]['params'][0].detach()},
        'optimizer': optimizer.state_dict(),
        'param_schedulers': [scheduler.state_dict() for scheduler in schedulers],
    }
    save_checkpoint(content, str(path))
    expected = train(optimizer, *schedulers)

    loaded = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    optimizer, *schedulers = make()
    with torch.no_grad():
        optimizer.param_groups[0]['params'][0].copy_(loaded['state_dict']['weight'])
    for part, state in zip(schedulers, loaded['param_schedulers']):
        part.load_state_dict(state)
    optimizer.load_state_dict(loaded['optimizer'])
    weight, rate = train(optimizer, *schedulers)
    assert torch.equal(weight, expected[0])
    assert rate == expected[1]


@pytest.mark.parametrize('kind', sorted(set(OPTIMIZERS.module_dict) - set(OPTIMIZERS_APART)))
def test_every_optimizer_goes_on_from_a_checkpoint(tmp_path, kind):
    require_round_trip(tmp_path, lambda: [optimizer_of(kind)])


LINEAR_ONE_CYCLE = pytest.param('OneCycleLR', {'anneal_strategy': 'linear'}, id='linear one cycle')


@pytest.mark.parametrize(
    ('kind', 'options'),
    [*((kind, {}) for kind in sorted(PARAM_SCHEDULERS.module_dict)), LINEAR_ONE_CYCLE],
)
def test_every_scheduler_of_mmengine_goes_on_from_a_checkpoint(tmp_path, kind, options):
    name = kind
    for ending in ('ParamScheduler', 'Momentum', 'LR'):
        name = name.removesuffix(ending)
    options = {**SCHEDULER_ARGUMENTS.get(name, {}), **options}
    if kind.endswith('ParamScheduler'):
        options['param_name'] = 'lr'

    def make():
        optimizer = optimizer_of('SGD')
        return optimizer, PARAM_SCHEDULERS.get(kind)(optimizer, **options)

    require_round_trip(tmp_path, make)


@pytest.mark.parametrize('kind', torch_schedulers())
def test_every_scheduler_of_torch_goes_on_from_a_checkpoint(tmp_path, kind):
    def make():
        optimizer, of = optimizer_of('SGD'), torch.optim.lr_scheduler
        first = of.ConstantLR(optimizer, total_iters=2)
        if kind == 'ChainedScheduler':
            return optimizer, of.ChainedScheduler([first, of.StepLR(optimizer, 2)])
        if kind == 'SequentialLR':
            return optimizer, of.SequentialLR(optimizer, [first, of.StepLR(optimizer, 2)], [2])
        optimizer = optimizer_of('SGD')
        return optimizer, getattr(of, kind)(optimizer, **TORCH_ARGUMENTS.get(kind, {}))

    require_round_trip(tmp_path, make)
