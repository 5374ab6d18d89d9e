"""The initializer and the hook inside mmengine's runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModule
from mmengine.registry import HOOKS, WEIGHT_INITIALIZERS
from torch import nn

from pspnet_plugin.pretrained import (
    PretrainedBackbone,
    PretrainedBackboneHook,
    PretrainedWeightsError,
)

from .networks import NARROW_RESNET, build, randomized, saved
from .runs import SAVING, Net, make_runner, start_of


@pytest.fixture(scope='module')
def network():
    return randomized(build(**NARROW_RESNET))


@pytest.fixture(scope='module')
def file(network, tmp_path_factory) -> str:
    return saved(network, tmp_path_factory.mktemp('weights') / 'resnet18.pth')


def has_weights_of(start: dict, network: nn.Module, prefix: str = 'backbone.') -> bool:
    theirs = network.state_dict()
    ours = {name[len(prefix) :]: t for name, t in start.items() if name.startswith(prefix)}
    counted = [name for name in ours if not name.endswith('num_batches_tracked')]
    return len(counted) == 100 and all(torch.equal(ours[name], theirs[name]) for name in counted)


def init_cfg(file: str, **settings) -> dict:
    return {'type': 'PretrainedBackbone', 'checkpoint': file, **settings}


def test_both_are_registered_in_mmengine():
    assert WEIGHT_INITIALIZERS.get('PretrainedBackbone') is PretrainedBackbone
    assert HOOKS.get('PretrainedBackboneHook') is PretrainedBackboneHook


def test_initializer_and_hook_start_from_the_same_weights(tmp_path, file, network):
    by_config = start_of(tmp_path / 'config', model=Net(init_cfg(file)))
    # Without an init_cfg the blocks of mmseg's ResNet set their last norm to zero by themselves.
    by_hook = start_of(tmp_path / 'hook', PretrainedBackboneHook(file))
    assert has_weights_of(by_config, network)
    assert has_weights_of(by_hook, network)


def test_a_hook_replaces_the_weights_that_the_config_names(tmp_path, file, network):
    model = Net({'type': 'Pretrained', 'checkpoint': 'torchvision://resnet18'})
    assert has_weights_of(start_of(tmp_path, PretrainedBackboneHook(file), model=model), network)


def test_other_initializers_before_ours_are_overwritten(tmp_path, file, network):
    constant = {'type': 'Constant', 'val': 7, 'layer': 'Conv2d'}
    model = Net([constant, init_cfg(file)])
    assert has_weights_of(start_of(tmp_path, model=model), network)


def test_an_initializer_behind_ours_is_an_error(tmp_path, file):
    constant = {'type': 'Constant', 'val': 7, 'layer': 'Conv2d'}
    with pytest.raises(PretrainedWeightsError, match='Put PretrainedBackbone last'):
        start_of(tmp_path, model=Net([init_cfg(file), constant]))


def test_the_report_is_in_the_log_and_beside_it_as_json(tmp_path, file):
    start_of(tmp_path, PretrainedBackboneHook(file))
    (log,) = tmp_path.glob('*/*.log')
    assert 'coverage 100.00%: 100 of 100 tensors' in log.read_text()
    (values,) = (json.loads(path.read_text()) for path in log.parent.glob('pretrained_*.json'))
    assert (values['module'], values['coverage']) == ('ResNet', 1)


def test_weights_that_do_not_fit_stop_the_run_and_the_log_has_the_table(tmp_path, file):
    model = Net(backbone=build(**{**NARROW_RESNET, 'type': 'ResNetV1c'}))
    with pytest.raises(PretrainedWeightsError, match='deep stem'):
        start_of(tmp_path, PretrainedBackboneHook(file), model=model)
    (log,) = tmp_path.glob('*/*.log')
    assert 'coverage 86.36%: 95 of 110' in log.read_text()


@pytest.mark.parametrize('way', ['config', 'hook'])
def test_a_checkpoint_to_load_or_resume_wins(tmp_path, file, network, way):
    def settings():
        in_config = way == 'config'
        hooks = [] if in_config else [PretrainedBackboneHook(file)]
        return hooks, {'model': Net(init_cfg(file) if in_config else None)}

    hooks, options = settings()
    make_runner(tmp_path, *hooks, lr=0.1, **options, **SAVING).train()
    trained = torch.load(tmp_path / 'iter_1.pth', weights_only=False)['state_dict']
    assert not has_weights_of(trained, network)
    for resume in (False, True):
        hooks, options = settings()
        start = start_of(
            tmp_path / str(resume),
            *hooks,
            load_from=str(tmp_path / 'iter_1.pth'),
            resume=resume,
            **options,
        )
        assert all(torch.equal(start[name], trained[name]) for name in trained)


def test_the_average_starts_from_the_loaded_weights(tmp_path, file, network):
    # Both orders of the two hooks.
    for number, order in enumerate((1, -1)):
        hooks = [PretrainedBackboneHook(file), EMAHook()][::order]
        make_runner(tmp_path / str(number), *hooks, **SAVING).train()
        content = torch.load(tmp_path / str(number) / 'iter_2.pth', weights_only=False)
        averaged = content['ema_state_dict']
        parameters = {f'module.backbone.{name}' for name, _ in network.named_parameters()}
        assert len(parameters & set(averaged)) == 60
        for name in parameters & set(averaged):
            theirs = network.get_parameter(name.removeprefix('module.backbone.'))
            assert torch.equal(averaged[name], theirs), name


def test_a_backbone_that_says_it_is_initialized_is_loaded_by_the_hook(tmp_path, file, network):
    # As TIMMBackbone does after it has loaded timm's own weights.
    model = Net()
    model.backbone.is_init = True
    assert has_weights_of(start_of(tmp_path, PretrainedBackboneHook(file), model=model), network)


def test_a_model_that_was_initialized_before_the_run_is_loaded_by_the_hook(tmp_path, file, network):
    model = Net()
    model.init_weights()
    assert has_weights_of(start_of(tmp_path, PretrainedBackboneHook(file), model=model), network)


class OwnInit(BaseModule):
    """A backbone that reads its init_cfg by itself, as mmseg's transformers do."""

    def __init__(self):
        super().__init__()
        self.body = build(**NARROW_RESNET)

    def init_weights(self):
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x):
        return self.body(x)


class PlainBackbone(nn.Module):
    """A backbone that mmengine never initializes."""

    def __init__(self):
        super().__init__()
        self.body = build(**NARROW_RESNET)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize('kind', [OwnInit, PlainBackbone])
def test_backbones_that_mmengine_does_not_initialize_are_loaded_by_the_hook(
    tmp_path, file, network, kind
):
    start = start_of(tmp_path, PretrainedBackboneHook(file), model=Net(backbone=kind()))
    assert has_weights_of(start, network, 'backbone.body.')


def test_the_whole_model_can_be_named(tmp_path):
    theirs = randomized(Net())
    file = saved({'state_dict': theirs.state_dict()}, tmp_path / 'weights.pth')
    start = start_of(tmp_path, PretrainedBackboneHook(file, module=''))
    assert all(torch.equal(start[name], t) for name, t in theirs.state_dict().items())


def test_a_nested_part_can_be_named(tmp_path, file, network):
    hook = PretrainedBackboneHook(file, module='backbone.body')
    start = start_of(tmp_path, hook, model=Net(backbone=PlainBackbone()))
    assert has_weights_of(start, network, 'backbone.body.')


class Stubborn(Net):
    """A model whose own init_weights leaves its parts out."""

    def init_weights(self):
        self.is_init = True


def test_a_model_that_goes_past_the_settings_stops_the_run(tmp_path, file):
    with pytest.raises(PretrainedWeightsError, match=r'Let it call super\(\)\.init_weights\(\)'):
        start_of(tmp_path, PretrainedBackboneHook(file), model=Stubborn())


def test_a_part_that_does_not_exist_is_an_error_with_those_that_do(tmp_path, file):
    hook = PretrainedBackboneHook(file, module='backbone.layer9')
    with pytest.raises(PretrainedWeightsError, match=r"no part 'layer9'.*layer1, layer2"):
        start_of(tmp_path, hook)


def test_a_wrong_setting_of_the_hook_is_an_error_when_it_is_built(file):
    with pytest.raises(TypeError, match='min_covrage'):
        PretrainedBackboneHook(file, min_covrage=0.5)


def test_a_second_training_goes_on_from_the_first(tmp_path, file, network):
    runner = make_runner(tmp_path, PretrainedBackboneHook(file), lr=0.1)
    runner.train()
    learnt = {name: t.clone() for name, t in runner.model.state_dict().items()}
    runner.call_hook('before_run')
    runner._init_model_weights()
    assert all(torch.equal(t, learnt[name]) for name, t in runner.model.state_dict().items())


def test_testing_does_not_touch_the_weights(tmp_path):
    # The reference leads nowhere, and no test needs it.
    hook = PretrainedBackboneHook('torchvision://no_such_model')
    runner = make_runner(tmp_path, hook, model=Net(backbone=PlainBackbone()))
    before = {name: t.clone() for name, t in runner.model.state_dict().items()}
    runner.call_hook('before_run')
    assert all(torch.equal(t, before[name]) for name, t in runner.model.state_dict().items())


class Classifier(BaseModule):
    """Something with a classifier by the name that decode heads give it."""

    def __init__(self):
        super().__init__()
        self.conv_seg = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.conv_seg(x)


def test_the_hook_takes_the_class_names_from_the_training_dataset(tmp_path):
    theirs = randomized(Classifier())
    content = {
        'meta': {'dataset_meta': {'classes': ('sea', 'sky')}},
        'state_dict': theirs.state_dict(),
    }
    model = Net(backbone=Classifier())
    model.head = nn.Identity()
    hook = PretrainedBackboneHook(saved(content, tmp_path / 'weights.pth'), classes='by_name')
    start = start_of(tmp_path, hook, model=model)
    assert torch.equal(start['backbone.conv_seg.weight'], theirs.conv_seg.weight.flip(0))


def _train_on_rank(rank: int, port: int, work_dir: Path, file: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')
    os.environ['MASTER_PORT'] = str(port)
    torch.distributed.init_process_group('gloo')
    torch.manual_seed(rank)
    start = start_of(
        work_dir,
        PretrainedBackboneHook(file),
        launcher='pytorch',
        cfg={'model_wrapper_cfg': {'type': 'MMDistributedDataParallel', 'device_ids': None}},
    )
    torch.save(start, work_dir / f'rank{rank}.pth')
    torch.distributed.destroy_process_group()


def test_all_ranks_start_from_the_same_loaded_weights(tmp_path, file, network):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context('fork')
    processes = [
        context.Process(target=_train_on_rank, args=(rank, port, tmp_path, file)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert has_weights_of(first, network)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(list(tmp_path.glob('*/pretrained_*.json'))) == 1
