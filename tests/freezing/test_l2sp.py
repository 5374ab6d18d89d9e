"""L2-SP equals its formula, written by hand, bit for bit, and survives what happens to runs."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from mmengine.model import MMDistributedDataParallel

from pspnet_plugin import L2SPHook, LayerFreezeHook
from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.freezing import ScheduleError, SelectionError, UnsupportedRunError
from tests.helpers.freezing_runs import Net, loader, make_runner, saving
from tests.helpers.stack import is_installed
from tests.helpers.torch_features import VERSION

# As other tests do, in the same process.
pytestmark = pytest.mark.skipif(VERSION < (2, 4), reason='its compiler takes hooks from optimizers')
ALPHA, BETA = 0.3, 0.02
OPTIMIZERS = [
    {'type': 'SGD', 'lr': 0.1, 'weight_decay': BETA},
    {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': BETA},
    {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'nesterov': True, 'weight_decay': BETA},
    {'type': 'SGD', 'lr': 0.1, 'maximize': True, 'weight_decay': BETA},
    {'type': 'Adam', 'lr': 0.01, 'weight_decay': BETA},
    {'type': 'AdamW', 'lr': 0.01, 'weight_decay': BETA},
]
if VERSION >= (2, 7):
    OPTIMIZERS.append({**OPTIMIZERS[4], 'decoupled_weight_decay': True})
NO_DECAY = {'custom_keys': {'backbone': {'decay_mult': 0}}}


def by_hand(optimizer, batches=range(6)):
    """The formula over the images of a run, with the loop that PyTorch's tutorials write."""
    net, data = Net(), loader()['dataset']
    start = copy.deepcopy(net.backbone.state_dict())
    options = {key: value for key, value in optimizer.items() if key != 'type'}
    trained = getattr(torch.optim, optimizer['type'])(
        [
            {'params': list(net.backbone.parameters()), 'weight_decay': 0},
            {'params': list(net.head.parameters())},
        ],
        **options,
    )
    for batch in batches:
        images = [data[(2 * batch + k) % len(data)]['x'] for k in range(2)]
        trained.zero_grad()
        net(torch.stack(images))['loss'].backward()
        with torch.no_grad():
            for name, weight in net.backbone.named_parameters():
                if optimizer['type'] == 'AdamW' or 'decoupled_weight_decay' in optimizer:
                    weight -= optimizer['lr'] * ALPHA * (weight - start[name])
                elif optimizer.get('maximize'):
                    weight.grad -= ALPHA * (weight - start[name])
                else:
                    weight.grad += ALPHA * (weight - start[name])
        trained.step()
    return net.state_dict()


def run(work_dir, optimizer=OPTIMIZERS[1], hooks=None, **settings):
    settings.setdefault('optim_wrapper', {'optimizer': optimizer, 'paramwise_cfg': NO_DECAY})
    hooks = [L2SPHook(ALPHA)] if hooks is None else hooks
    runner = make_runner(work_dir, *hooks, **settings)
    runner.train()
    return runner


def assert_same(left, right):
    torch.testing.assert_close(dict(left), dict(right), rtol=0, atol=0)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_a_run_equals_the_formula_bit_for_bit(tmp_path, optimizer):
    runner = run(tmp_path, optimizer)
    assert_same(runner.model.state_dict(), by_hand(optimizer))
    without = run(tmp_path / 'without', optimizer, hooks=[])
    assert not torch.equal(runner.model.head.weight, without.model.head.weight)


@pytest.mark.parametrize('optimizer', OPTIMIZERS[1::4])
def test_a_resumed_run_is_pulled_to_the_start_of_the_first(tmp_path, optimizer):
    whole = run(tmp_path / 'whole', optimizer, **saving(2))
    for interrupted in (2, 4):
        checkpoint = f'{whole.work_dir}/iter_{interrupted}.pth'
        resumed = run(tmp_path / 'rest', optimizer, resume=True, load_from=checkpoint)
        assert_same(resumed.model.state_dict(), whole.model.state_dict())
    going_on = {'resume': True, 'load_from': f'{whole.work_dir}/iter_2.pth', **saving(2)}
    twice = run(tmp_path / 'twice', optimizer, **going_on)
    going_on['load_from'] = f'{twice.work_dir}/iter_4.pth'
    third = run(tmp_path / 'third', optimizer, **going_on)
    assert_same(third.model.state_dict(), whole.model.state_dict())


def test_a_run_from_the_weights_of_another_is_pulled_to_those(tmp_path):
    first = run(tmp_path / 'first', **saving(2))
    # So strong that a step goes all the way back to the start, but for lr times the gradient.
    strong, optimizer = [L2SPHook(1e6)], {'type': 'SGD', 'lr': 1e-6, 'weight_decay': 0}
    second = run(tmp_path / 'second', optimizer, strong, load_from=f'{first.work_dir}/iter_6.pth')
    kept = dict(first.model.backbone.named_parameters())
    for name, weight in second.model.backbone.named_parameters():
        torch.testing.assert_close(weight, kept[name], rtol=0, atol=1e-5)


# The second has the names and shapes of the third: its start must not be taken for it.
@pytest.mark.parametrize('module', [None, 'backbone.stem.1', 'backbone.layer1.1', 'backbone'])
def test_a_checkpoint_without_a_start_of_the_part_is_refused(tmp_path, module):
    hooks = [L2SPHook(ALPHA, module)] if module else []
    first = run(tmp_path / 'first', hooks=hooks, **saving(2))
    resumed = {'resume': True, 'load_from': f'{first.work_dir}/iter_2.pth'}
    for other in ('backbone.layer1.1', 'backbone'):
        if other == module or module == 'backbone':
            run(tmp_path / 'second', hooks=[L2SPHook(ALPHA, other)], **resumed)
            continue
        with pytest.raises(UnsupportedRunError, match='no start .*without resume'):
            run(tmp_path / 'second', hooks=[L2SPHook(ALPHA, other)], **resumed)


def test_two_parts_are_pulled_with_strengths_of_their_own_also_when_resumed(tmp_path):
    hooks = lambda: [L2SPHook(ALPHA), L2SPHook(0.1, 'head')]  # noqa: E731
    optimizer = {'optimizer': {'type': 'SGD', 'lr': 0.1}}
    whole = run(tmp_path / 'whole', hooks=hooks(), optim_wrapper=optimizer, **saving(2))
    resumed = {'resume': True, 'load_from': f'{whole.work_dir}/iter_2.pth'}
    rest = run(tmp_path / 'rest', hooks=hooks(), optim_wrapper=optimizer, **resumed)
    assert_same(rest.model.state_dict(), whole.model.state_dict())


def test_a_runner_that_trains_on_keeps_its_start_and_pulls_once(tmp_path):
    runner = run(tmp_path, max_iters=3)
    runner.train_loop._max_iters = 6
    runner.train()  # skips as many batches as it has done iterations
    batches = [0, 1, 2, 3, 4, 5] if is_installed('onedl-mmengine') else [0, 1, 2, 6, 7, 8]
    assert_same(runner.model.state_dict(), by_hand(OPTIMIZERS[1], batches=batches))


@pytest.mark.parametrize('optimizer', OPTIMIZERS[1::4])
def test_frozen_layers_are_not_pulled(tmp_path, optimizer):
    schedule = [{'at': 2, 'freeze': ['backbone.layer1']}]
    frozen, two = [], []
    for max_iters, weights in ((6, frozen), (2, two)):
        runner = run(
            tmp_path,
            optimizer,
            [L2SPHook(ALPHA), LayerFreezeHook(schedule=schedule)],
            max_iters=max_iters,
        )
        weights.append(runner.model.backbone.layer1.state_dict())
    assert_same(frozen[0], two[0])


def test_a_model_in_several_processes_is_pulled_as_in_one(tmp_path, process_group):
    model = MMDistributedDataParallel(Net())
    run(tmp_path, model=model, **saving(2))
    assert_same(model.module.state_dict(), by_hand(OPTIMIZERS[1]))


def test_the_scale_of_the_loss_changes_nothing(tmp_path, amp_on_cpu):
    states = []
    for scale in (1.0, 2.0**10):
        wrapper = {
            'type': 'AmpOptimWrapper',
            'dtype': 'bfloat16',
            'loss_scale': {'init_scale': scale},
            'optimizer': OPTIMIZERS[1],
            'paramwise_cfg': NO_DECAY,
        }
        states.append(run(tmp_path, optim_wrapper=wrapper).model.state_dict())
    assert_same(*states)


@pytest.mark.parametrize(
    ('hook', 'optimizer', 'error', 'told'),
    [
        *(({'alpha': no}, {}, ScheduleError, 'alpha') for no in (0, -1, math.nan, '1', None)),
        ({'alpha': 1, 'module': 'backbon'}, {}, SelectionError, 'Did you mean backbone'),
        ({'alpha': 1, 'module': 'head'}, {}, UnsupportedRunError, "'head': dict.decay_mult=0"),
        ({'alpha': 1}, {'type': 'RMSprop'}, UnsupportedRunError, 'RMSprop'),
    ],
)
def test_what_cannot_be_pulled_is_refused(tmp_path, hook, optimizer, error, told):
    with pytest.raises(error, match=told):
        run(tmp_path, {**OPTIMIZERS[0], **optimizer}, [L2SPHook(**hook)])
    assert issubclass(error, PspnetPluginError)


def test_an_optimizer_whose_hooks_are_not_called_is_refused(tmp_path, monkeypatch):
    """As torch before 2.4 leaves it once something has been compiled."""
    run(tmp_path, hooks=[])
    step = torch.optim.SGD.step.__wrapped__
    monkeypatch.setattr(step, 'hooked', True, raising=False)
    monkeypatch.setattr(torch.optim.SGD, 'step', step)
    with pytest.raises(UnsupportedRunError, match='calls no hooks of optimizers once'):
        run(tmp_path)
