"""A run that was interrupted anywhere ends as the uninterrupted one does, bit for bit."""

from __future__ import annotations

import pytest
import torch

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.freezing import LayerFreezeHook
from tests.helpers.checkpoints import assert_same, last_state
from tests.helpers.freezing_runs import Net, loader, make_runner, saving, watch

ITERATIONS = 8
SCHEDULE = [
    {'at': 2, 'unfreeze': ['backbone.layer3'], 'lr_mult': 0.3},
    {'at': 0.5, 'unfreeze': ['backbone.layer2', 'norm'], 'lr_mult': 0.5, 'warmup': 3},
    {'at': 6, 'freeze': ['backbone.layer3'], 'unfreeze': ['backbone.stem']},
]
KINDS = {
    'sgd': {'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 0.01}},
    'adamw, paramwise, frozen as built': {
        'optimizer': {'type': 'AdamW', 'lr': 0.01, 'weight_decay': 0.1},
        'paramwise_cfg': {'norm_decay_mult': 0.0},
    },
    'amp': {
        'type': 'AmpOptimWrapper',
        'dtype': 'bfloat16',
        # Grows and, with a growth this large, backs off again within the run.
        'loss_scale': {'init_scale': 2.0**100, 'growth_factor': 2.0**27, 'growth_interval': 2},
        'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9},
    },
    'amp in float16': {
        'type': 'AmpOptimWrapper',
        'dtype': 'float16',
        # Half precision ends at 65504.
        'loss_scale': {'init_scale': 2.0**10, 'growth_factor': 2.0**12, 'growth_interval': 2},
        'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9},
    },
}


def build(work_dir, wrapper, by_epoch=False, **settings):
    net = Net()
    if 'paramwise_cfg' in wrapper:
        net.backbone.requires_grad_(False)
    if by_epoch:
        settings['train_cfg'] = {'by_epoch': True, 'max_epochs': 4}
        settings['train_dataloader'] = loader()
    return make_runner(
        work_dir,
        LayerFreezeHook(freeze=['backbone'], schedule=SCHEDULE, stage_lr_decay=0.9),
        {'type': 'EMAHook'},
        model=net,
        max_iters=ITERATIONS,
        optim_wrapper=wrapper,
        param_scheduler=[
            {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'end': 3},
            {'type': 'PolyLR', 'power': 0.9, 'eta_min': 1e-3, 'by_epoch': False, 'begin': 3},
        ],
        default_hooks={
            'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': by_epoch}
        },
        **settings,
    )


@pytest.mark.parametrize(('kind', 'by_epoch'), [*((kind, False) for kind in KINDS), ('sgd', True)])
def test_a_resumed_run_ends_bit_identical(tmp_path, kind, by_epoch, amp_on_cpu):
    if kind.startswith('amp') and not hasattr(torch.amp, 'GradScaler'):
        pytest.skip(f'torch {torch.__version__} scales no gradients on CPUs')
    build(tmp_path / 'whole', KINDS[kind], by_epoch).train()
    reference = last_state(tmp_path / 'whole')
    if 'loss_scale' in KINDS[kind]:
        unused = (0.0, KINDS[kind]['loss_scale']['init_scale'])
        assert reference['optimizer']['loss_scaler']['scale'] not in unused
    saved = sorted(tmp_path.glob('whole/*.pth'))
    assert len(saved) == (4 if by_epoch else ITERATIONS)
    # Elsewhere than in the first kind, from where the schedule has a line.
    for checkpoint in saved[:-1] if kind == 'sgd' else saved[1:-1:2]:
        resumed = tmp_path / f'from_{checkpoint.stem}'
        build(resumed, KINDS[kind], by_epoch, resume=True, load_from=str(checkpoint)).train()
        assert_same(reference, last_state(resumed), f'interrupted at {checkpoint.stem}')


# Lightning's issues 21901 (a resumed run freezes again what was unfrozen) and 6551 (it ends in an
# AttributeError).
def test_a_resumed_run_freezes_the_same_layers(tmp_path):
    hook = {'type': 'LayerFreezeHook', 'freeze': ['backbone'], 'schedule': SCHEDULE}
    first, whole = watch(tmp_path / 'a', hook, max_iters=ITERATIONS, **saving(5))
    _, rest = watch(
        tmp_path / 'b',
        hook,
        max_iters=ITERATIONS,
        resume=True,
        load_from=f'{first.work_dir}/iter_5.pth',
    )
    assert sorted(rest.changed) == [5, 6, 7]
    assert all(
        rest.changed[t] == whole.changed[t] and rest.lrs[t] == whole.lrs[t] for t in (5, 6, 7)
    )


@pytest.mark.parametrize('other', [None, 'backbone.layer2'])
def test_an_optimizer_state_of_another_layout_is_refused(tmp_path, other):
    def hook(part):
        return LayerFreezeHook(schedule=[{'at': 2, 'unfreeze': [part], 'lr_mult': 0.1}])

    first, _ = watch(tmp_path / 'a', hook('backbone.layer1'), **saving(3))
    hooks = [hook(other)] if other else [LayerFreezeHook(freeze=['backbone'])]
    settings = {'resume': True, 'load_from': f'{first.work_dir}/iter_3.pth'}
    with pytest.raises(PspnetPluginError, match='load_from, without resume'):
        watch(tmp_path / 'b', *hooks, **settings)
    watch(tmp_path / 'c', *hooks, **{**settings, 'resume': False})


LINE = {'at': 2, 'unfreeze': 'backbone.layer1', 'lr_mult': 0.1, 'warmup': 2}


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ({'schedule': [LINE]}, {'schedule': [{**LINE, 'lr_mult': 0.2}]}),
        ({'schedule': [LINE]}, {'schedule': [{**LINE, 'warmup': 3}]}),
        ({'schedule': [LINE]}, {'schedule': [{**LINE, 'warmup': 0.5}]}),
        ({'schedule': [LINE]}, {'schedule': [{**LINE, 'warmup': 0}]}),
        ({'schedule': [LINE]}, {'schedule': [LINE, {**LINE, 'at': 4, 'lr_mult': 1}]}),
        ({'stage_lr_decay': 0.9}, {'stage_lr_decay': 0.8}),
        ({'stage_lr_decay': {'backbone': 0.9}}, {'stage_lr_decay': {'backbone': 0.91}}),
        (None, {'schedule': [{'at': 0, 'unfreeze': ['backbone', 'head'], 'lr_mult': 0.5}]}),
    ],
)
def test_other_factors_on_learning_rates_are_refused_at_resume(tmp_path, before, after):
    hooks = [] if before is None else [LayerFreezeHook(**before)]
    first, _ = watch(tmp_path / 'a', *hooks, **saving(3))
    settings = {'resume': True, 'load_from': f'{first.work_dir}/iter_3.pth'}
    with pytest.raises(PspnetPluginError, match='lr_mult, warmup and stage_lr_decay'):
        watch(tmp_path / 'b', LayerFreezeHook(**after), **settings)
    watch(tmp_path / 'c', *hooks, **settings)
    watch(tmp_path / 'd', LayerFreezeHook(**after), **{**settings, 'resume': False})


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ([{**LINE, 'at': 4}], [{**LINE, 'at': 5}]),
        ([], [{'at': 5, 'unfreeze': 'backbone.stages[0]'}]),
    ],
)
def test_a_schedule_may_be_changed_later_where_groups_and_factors_are_the_same(
    tmp_path, before, after
):
    hooks = [LayerFreezeHook('backbone', schedule=schedule) for schedule in (before, after)]
    first, _ = watch(tmp_path / 'a', hooks[0], **saving(3))
    _, rest = watch(tmp_path / 'b', hooks[1], resume=True, load_from=f'{first.work_dir}/iter_3.pth')
    assert 'backbone.layer1.0.weight' not in rest.changed[4]
    assert 'backbone.layer1.0.weight' in rest.changed[5]


def test_as_many_groups_with_other_parameters_are_refused_in_these_words(tmp_path):
    one, other = (
        LayerFreezeHook('backbone', schedule=[{'at': 4, 'unfreeze': name, 'lr_mult': 0.5}])
        for name in ('backbone.layer1', 'backbone.layer3')
    )
    first, _ = watch(tmp_path / 'a', one, **saving(3))
    with pytest.raises(PspnetPluginError, match='has other parameters in its groups than this run'):
        watch(tmp_path / 'b', other, resume=True, load_from=f'{first.work_dir}/iter_3.pth')
