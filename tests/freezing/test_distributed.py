"""Several processes: frozen parameters are not exchanged, and the ranks stay equal."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.model import MMDistributedDataParallel, MMSeparateDistributedDataParallel

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.freezing import LayerFreezeHook
from tests.helpers.communication import CountBytes, bytes_of
from tests.helpers.freezing_runs import Net, watch
from tests.helpers.processes import ROOT, run_script, run_two
from tests.helpers.street_scenes import small_run_options

SCHEDULE = [
    {'at': 2, 'unfreeze': ['backbone.layer3'], 'lr_mult': 0.5},
    {'at': 4, 'unfreeze': ['backbone'], 'freeze': ['backbone.stem']},
    {'at': 6, 'freeze': ['backbone']},
]


def check(record, trains_at):
    """Each step exchanges exactly what trains in it."""
    assert [step['exchanged'] for step in record] == trains_at
    assert [step['trains'] for step in record] == trains_at
    assert all(step['ranks agree'] and not step['find_unused_parameters'] for step in record)
    assert len({step['wrapper'] for step in record}) == 1


def nbytes(model, *parts):
    return bytes_of(p for part in parts for p in model.get_submodule(part).parameters())


@pytest.mark.parametrize(
    'settings',
    [{}, {'gradient_as_bucket_view': True}, {'static_graph': True}, {'bucket_cap_mb': 0.001}],
    ids=str,
)
@pytest.mark.parametrize('built_frozen', [False, True])
def test_the_reducer_follows_each_transition(tmp_path, process_group, settings, built_frozen):
    net = Net()
    net.backbone.requires_grad_(not built_frozen)
    wrapped = MMDistributedDataParallel(net, broadcast_buffers=False, **settings)
    out = tmp_path / 'record.json'
    hook = LayerFreezeHook(freeze=['backbone'], schedule=SCHEDULE)
    watch(tmp_path, hook, CountBytes(out), model=wrapped, max_iters=8)
    head, last = nbytes(net, 'head'), nbytes(net, 'backbone.layer3')
    rest = nbytes(net, 'backbone.layer1', 'backbone.layer2')
    trains = [head] * 2 + [head + last] * 2 + [head + last + rest] * 2 + [head] * 2
    check(json.loads(out.read_text()), trains)


def test_gradients_accumulated_without_exchange_cross_a_transition(tmp_path, process_group):
    final = []
    for wrap in (lambda net: net, lambda net: MMDistributedDataParallel(net)):
        net = Net()
        watch(
            tmp_path,
            LayerFreezeHook(freeze=['backbone'], schedule=SCHEDULE),
            model=wrap(net),
            max_iters=9,
            optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.1}, 'accumulative_counts': 3},
        )
        final.append(net.state_dict())
    assert all(torch.equal(final[0][name], final[1][name]) for name in final[0])


def test_a_model_whose_parts_are_wrapped_one_by_one_is_refused(tmp_path, process_group):
    wrapped = MMSeparateDistributedDataParallel(Net(), False, False)
    with pytest.raises(PspnetPluginError, match='MMSeparateDistributedDataParallel'):
        watch(tmp_path, LayerFreezeHook(freeze=['backbone']), model=wrapped)


def test_a_sharded_optimizer_is_refused_only_where_its_groups_would_change(tmp_path, process_group):
    wrapper = {
        'optimizer': {
            'type': 'ZeroRedundancyOptimizer',
            'optimizer_type': 'SGD',
            'lr': 0.1,
            'momentum': 0.9,
        }
    }
    freeze = LayerFreezeHook(freeze=['backbone'], schedule=[{'at': 2, 'unfreeze': 'backbone'}])
    _, watched = watch(tmp_path, freeze, optim_wrapper=wrapper, max_iters=4)
    assert 'backbone.stem.0.weight' in watched.changed[2] - watched.changed[1]
    with pytest.raises(PspnetPluginError, match='ZeroRedundancyOptimizer'):
        watch(tmp_path, LayerFreezeHook(stage_lr_decay=0.5), optim_wrapper=wrapper)


TWO_PROCESSES = """
_base_ = {base!r}
custom_imports = dict(imports=['pspnet_plugin', 'tests.helpers.communication'])
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(depth=18, base_channels=8, stem_channels=8, norm_cfg=norm_cfg),
    decode_head=dict(in_channels=64, channels=16, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=32, channels=8, norm_cfg=norm_cfg))
env_cfg = dict(dist_cfg=dict(backend='gloo'))
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
custom_hooks = [
    dict(type='LayerFreezeHook', freeze=['backbone'], schedule=[
        dict(at=2, unfreeze=['backbone.stages[3:]'], lr_mult=0.5),
        dict(at=4, freeze=['backbone', 'auxiliary_head'])]),
    dict(type='CountBytes', out={out!r})]
"""


def test_two_processes_of_the_train_tool(tmp_path, street_scenes):
    config, out = tmp_path / 'config.py', tmp_path / 'record.json'
    base = str(ROOT / 'configs' / 'psp_r18_cityscapes.py')
    config.write_text(TWO_PROCESSES.format(base=base, out=str(out)))
    rest = ['--work-dir', tmp_path / 'work', *small_run_options(street_scenes, iterations=6)]
    train = [ROOT / 'tools' / 'train.py', config, '--launcher', 'pytorch', *rest]
    code, output = run_two(run_script, *train, folder=tmp_path)
    assert code == 0, output[-4000:]
    record = json.loads(out.read_text())
    trains = [step['trains'] for step in record]
    check(record, trains)
    assert trains[0] == trains[1] < trains[2] == trains[3]
    assert trains[4] == trains[5] < trains[0]
    assert len({step['sum'] for step in record}) == 6
