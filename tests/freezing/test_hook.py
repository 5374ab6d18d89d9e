"""What changes at each iteration of a run is what the schedule says, and nothing else."""

from __future__ import annotations

import contextlib
import math
import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODEL_WRAPPERS
from mmengine.runner import FlexibleRunner
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.freezing import LayerFreezeHook, ScheduleError, SelectionError
from pspnet_plugin.freezing.plan import plan
from pspnet_plugin.freezing.schedule import RunLength
from tests.helpers.freezing_runs import (
    PARTS,
    Net,
    double_precision_net,
    loader,
    make_runner,
    under,
    watch,
)

ITERATIONS = 5
NO_NUMBERS = (math.nan, math.inf, -math.inf, -0.5, '0.8', True, None, [1])
NAMES = set(Net().state_dict())
OPTIMIZERS = (
    {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.01},
    {'type': 'AdamW', 'lr': 0.01, 'weight_decay': 0.1},
    {'type': 'Adam', 'lr': 0.01, 'weight_decay': 0.1, 'amsgrad': True},
)

parts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4, unique=True)
lines = st.fixed_dictionaries(
    {'at': st.integers(0, ITERATIONS)}, optional={'unfreeze': parts, 'freeze': parts}
).filter(lambda line: len(line) > 1)


def expected_frozen(freeze, schedule, iteration):
    """The parts that are frozen, told line by line."""
    state = dict.fromkeys(PARTS, False)
    state.update(dict.fromkeys(freeze, True))
    for line in sorted(schedule, key=lambda line: line['at']):
        if line['at'] <= iteration:
            state.update(dict.fromkeys(line.get('unfreeze', ()), False))
            state.update(dict.fromkeys(line.get('freeze', ()), True))
    return {part for part, frozen in state.items() if frozen}


@settings(max_examples=40, deadline=None)
@given(
    freeze=st.lists(st.sampled_from(PARTS), max_size=4, unique=True),
    schedule=st.lists(lines, max_size=4),
    optimizer=st.sampled_from(OPTIMIZERS),
    paramwise=st.booleans(),
    clip=st.booleans(),
    built_frozen=st.lists(st.sampled_from(PARTS[:4]), max_size=2, unique=True),
)
def test_exactly_what_is_not_frozen_changes(
    tmp_path_factory, freeze, schedule, optimizer, paramwise, clip, built_frozen
):
    frozen = [expected_frozen(freeze, schedule, t) for t in range(ITERATIONS)]
    named = set(freeze).union(
        *(line.get(key, []) for line in schedule for key in ('freeze', 'unfreeze'))
    )
    assume(all(len(parts) < len(PARTS) for parts in frozen))
    # What was frozen before the run, and only what the schedule settles from the first iteration.
    built_frozen = [part for part in built_frozen if part in frozen[0] and part in named]
    net = double_precision_net()
    for part in built_frozen:
        net.get_submodule(part).requires_grad_(False)
    wrapper = {'optimizer': optimizer}
    if paramwise:
        wrapper['paramwise_cfg'] = {'norm_decay_mult': 0.5, 'custom_keys': {'head': {'lr_mult': 2}}}
    if clip:
        wrapper['clip_grad'] = {'max_norm': 0.5}
    _, watched = watch(
        tmp_path_factory.mktemp('run'),
        LayerFreezeHook(freeze=freeze, schedule=schedule),
        model=net,
        max_iters=ITERATIONS,
        optim_wrapper=wrapper,
    )
    names = set(net.state_dict())
    for iteration, parts in enumerate(frozen):
        still = set().union(*(under(part, names) for part in parts))
        assert watched.changed[iteration] == names - still


class NoValueAsked(TorchDispatchMode):
    """Refuses what would have a GPU's queue wait: that a tensor is read, compared or copied."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket.__name__ not in ('_local_scalar_dense', '_to_copy', 'equal')
        return func(*args, **(kwargs or {}))


def test_an_iteration_between_two_transitions_asks_no_tensor_for_its_value(tmp_path):
    class Watched(LayerFreezeHook):
        iterations = 0

        def before_train_iter(self, runner, *args, **kwargs):
            transition = runner.iter in self.ahead
            with contextlib.nullcontext() if transition else NoValueAsked():
                super().before_train_iter(runner, *args, **kwargs)
            self.iterations += not transition

    hook = Watched(freeze=['backbone'], schedule=[{'at': 2, 'unfreeze': 'backbone', 'warmup': 2}])
    watch(tmp_path, hook, max_iters=ITERATIONS)
    assert hook.iterations == ITERATIONS - 1


@pytest.mark.parametrize('accumulate', [2, 3])
def test_gradients_accumulated_before_freezing_are_dropped(tmp_path, accumulate):
    hook = LayerFreezeHook(schedule=[{'at': 1, 'freeze': ['backbone.layer1']}])
    optimizer = {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.01}
    _, watched = watch(
        tmp_path,
        hook,
        model=double_precision_net(),
        max_iters=6,
        optim_wrapper={'optimizer': optimizer, 'accumulative_counts': accumulate},
    )
    later = set().union(*(watched.changed[t] for t in range(1, 6)))
    assert 'head.weight' in later
    assert not under('backbone.layer1', later)


def test_momentum_of_frozen_parameters_is_kept_as_it_was(tmp_path):
    kept = {}

    class Look(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            parameter = runner.model.backbone.layer1[0].weight
            state = runner.optim_wrapper.optimizer.state[parameter]
            kept[runner.iter] = state['momentum_buffer'].clone()

    schedule = [{'at': 2, 'freeze': 'backbone'}, {'at': 4, 'unfreeze': 'backbone'}]
    watch(tmp_path, LayerFreezeHook(schedule=schedule), Look(), max_iters=6)
    assert torch.equal(kept[1], kept[3])
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[4], kept[3])


def test_epochs_and_fractions_mean_the_same_moment(tmp_path):
    # 12 images in batches of 2 are 6 iterations an epoch.
    changed = []
    for at, by_epoch in ((1, True), (6, False), (1 / 3, False), (0.25, True)):
        runner, watched = watch(
            tmp_path,
            LayerFreezeHook(
                freeze=['backbone'],
                schedule=[{'at': at, 'unfreeze': 'backbone'}],
                by_epoch=by_epoch,
            ),
            train_cfg={'by_epoch': True, 'max_epochs': 3},
            train_dataloader=loader(),
        )
        assert runner.max_iters == 18
        changed.append([bool(under('backbone', watched.changed[t])) for t in range(18)])
    assert changed == [[False] * 6 + [True] * 12] * 4


# What users of Lightning report of its BackboneFinetuning, by the numbers of its issues.


def test_frozen_batch_norm_keeps_its_statistics_and_predicts_the_same(tmp_path):  # 15062
    net = double_precision_net()
    images = torch.randn(2, 3, 9, 9).double()
    before = net.backbone.eval()(images)
    watch(tmp_path, LayerFreezeHook(freeze=['backbone']), model=net)
    assert torch.equal(net.backbone.eval()(images), before)


@pytest.mark.parametrize(('exclude', 'trains'), [([], False), (['norm'], True)])
def test_norms_train_in_a_frozen_backbone_if_and_only_if_the_config_says_so(  # 21531
    tmp_path, exclude, trains
):
    hook = LayerFreezeHook(
        freeze=['backbone'],
        exclude=exclude,
        schedule=[{'at': 3, 'unfreeze': ['backbone'], 'exclude': ['norm']}],
    )
    _, watched = watch(tmp_path, hook, model=double_precision_net())
    norms = {name for name in NAMES if name.startswith('backbone.') and '.1.' in name}
    for iteration in range(6):
        assert watched.changed[iteration] & norms == (norms if trains else set())
    assert 'backbone.layer1.0.weight' not in watched.changed[2]
    assert 'backbone.layer1.0.weight' in watched.changed[3]


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'error', 'told'),
    [
        ({'freeze': ['backbone.layr1']}, SelectionError, 'backbone.layer1'),
        ({'freeze': ['']}, SelectionError, 'matches no'),
        ({'freeze': ['backbone', 'head']}, ScheduleError, 'nothing could train'),
        ({'schedule': [{'at': 1, 'freeze': ['*']}]}, ScheduleError, 'iteration 1'),
        ({'schedule': [{'at': 1, 'unfreez': ['head']}]}, ScheduleError, 'Did you mean unfreeze'),
        ({'schedule': ['backbone']}, ScheduleError, 'is a dict'),
        ({'schedule': [{'at': 1, 'unfreeze': 'head', 'lr_mult': '0.1'}]}, ScheduleError, "'0.1'"),
        ({'freeze': [1]}, ScheduleError, r'\[1\]'),
        ({'schedule': [{'at': -1, 'unfreeze': ['head']}]}, ScheduleError, '-1'),
        ({'schedule': [{'at': 1.5, 'unfreeze': ['head']}]}, ScheduleError, 'fraction'),
        ({'schedule': {'type': 'gradual'}}, ScheduleError, 'gradual_unfreeze'),
        ({'schedule': None}, ScheduleError, 'schedule=None is neither a list'),
        (
            {'schedule': {'type': 'gradual_unfreeze', 'module': ['backbone']}},
            SelectionError,
            r"\['backbone'\] is no module .* Did you mean backbone",
        ),
        ({'stage_lr_decay': {'backbon': 0.5}}, SelectionError, 'backbone'),
        ({'stage_lr_decay': 1.5}, ScheduleError, r'1\.5'),
    ],
)
def test_a_wrong_config_is_one_clear_error_before_the_first_iteration(
    tmp_path, arguments, error, told
):
    with pytest.raises(error, match=told) as raised:
        watch(tmp_path, LayerFreezeHook(**arguments))
    assert isinstance(raised.value, PspnetPluginError)


@pytest.mark.parametrize(
    'with_number',
    [
        lambda no: {'stage_lr_decay': no},
        lambda no: {'stage_lr_decay': {'backbone': no}},
        lambda no: {'schedule': [{'at': no, 'freeze': 'head'}]},
        *(
            lambda no, key=key: {'schedule': [{'at': 1, 'unfreeze': 'head', key: no}]}
            for key in ('lr_mult', 'warmup')
        ),
        *(
            lambda no, preset=preset, key=key: {'schedule': {'type': preset, key: no}}
            for preset, key in (
                ('gradual_unfreeze', 'end'),
                ('gradual_unfreeze', 'lr_mult'),
                ('probe_then_finetune', 'at'),
                ('probe_then_finetune', 'warmup'),
            )
        ),
    ],
)
def test_what_is_no_number_is_named(with_number):
    for no in NO_NUMBERS:
        arguments = with_number(no)
        if arguments == {'stage_lr_decay': None}:
            continue
        with pytest.raises(ScheduleError, match=re.escape(repr(no))):
            plan(Net(), RunLength(6, 1), **LayerFreezeHook(**arguments).config)


def test_a_misspelt_argument_is_refused_with_its_near_miss():
    with pytest.raises(ScheduleError, match=r"takes no 'freze'. Did you mean freeze"):
        HOOKS.build({'type': 'LayerFreezeHook', 'freze': ['backbone']})


def test_exclude_takes_parts_out_of_the_hook_and_out_of_a_line():
    line = {'at': 1, 'freeze': ['backbone'], 'exclude': ['backbone.layer3']}
    hook = LayerFreezeHook(freeze=['backbone'], schedule=[line], exclude='norm')
    timeline = plan(Net(), RunLength(2, 1), **hook.config)
    for part, excluded in (('backbone.layer2', False), ('backbone.layer3', True)):
        convolution, whole = under(f'{part}.0', NAMES), under(part, NAMES)
        assert under(part, timeline.frozen(0)) == convolution
        assert under(part, timeline.frozen(1)) == (convolution if excluded else whole)


def test_a_sharding_wrapper_is_refused_at_the_start(tmp_path):
    @MODEL_WRAPPERS.register_module(force=True)
    class Sharded(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def train_step(self, *args, **kwargs):
            raise AssertionError('training began')

    wrapped = Sharded(Net())
    assert is_model_wrapper(wrapped)
    with pytest.raises(PspnetPluginError, match='sharded'):
        watch(tmp_path, LayerFreezeHook(freeze=['backbone']), model=wrapped)


def test_a_flexible_runner_is_refused_at_the_start(tmp_path):
    runner = FlexibleRunner(
        Net(),
        work_dir=str(tmp_path),
        strategy={'type': 'SingleDeviceStrategy'},
        train_dataloader=loader(),
        train_cfg={'by_epoch': True, 'max_epochs': 1},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}},
        custom_hooks=[LayerFreezeHook(freeze=['backbone'])],
        experiment_name='flexible',
    )
    with pytest.raises(PspnetPluginError, match='FlexibleRunner'):
        runner.train()


@pytest.mark.parametrize('method', ['build_optim_wrapper', 'scale_lr'])
def test_a_runner_that_builds_its_optimizer_in_a_way_of_its_own_is_refused(tmp_path, method):
    runner = make_runner(tmp_path, LayerFreezeHook(freeze=['backbone']))
    setattr(runner, method, lambda *arguments: optim_wrapper)
    optim_wrapper = build_optim_wrapper(runner.model, {'optimizer': {'type': 'SGD', 'lr': 0.1}})
    with pytest.raises(PspnetPluginError, match='builds its optimizer in a way of its own'):
        runner.train()


def test_two_freeze_hooks_are_refused(tmp_path):
    with pytest.raises(PspnetPluginError, match='in one'):
        watch(tmp_path, LayerFreezeHook(freeze=['backbone']), LayerFreezeHook(freeze=['head']))


def test_one_hook_serves_several_runners_one_after_the_other(tmp_path):
    schedule = [{'at': 0.5, 'unfreeze': ['backbone'], 'lr_mult': 0.5}]
    hook = LayerFreezeHook(freeze=['backbone'], schedule=schedule)
    for max_iters in (4, 8):
        new = LayerFreezeHook(freeze=['backbone'], schedule=schedule)
        (_, again), (_, once) = (watch(tmp_path, h, max_iters=max_iters) for h in (hook, new))
        assert again.changed == once.changed
        assert again.lrs == once.lrs


def test_the_hook_leaves_validation_and_test_runs_alone(tmp_path):
    runner = make_runner(
        tmp_path,
        LayerFreezeHook(freeze=['no.such.module']),
        train_dataloader=None,
        train_cfg=None,
        optim_wrapper=None,
        test_dataloader=loader(),
        test_cfg={},
        test_evaluator={'type': 'DumpResults', 'out_file_path': str(tmp_path / 'out.pkl')},
    )
    runner.model.test_step = lambda data: [{'pred': 0}]
    runner.test()
