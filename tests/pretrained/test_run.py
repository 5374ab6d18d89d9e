"""The initializer and the hook inside mmengine's runs."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModule, ExponentialMovingAverage
from torch import nn

from pspnet_plugin.pretrained import (
    PretrainedBackbone,
    PretrainedBackboneHook,
    PretrainedWeightsError,
)
from tests.helpers.networks import NARROW_RESNET, build, randomized, saved
from tests.helpers.pretrained_runs import SAVING, Net, Start, make_runner, start_of
from tests.helpers.processes import free_port


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


# mmengine runs Pretrained last, wherever it stands.
@pytest.mark.parametrize(
    ('kind', 'order'), [('Constant', 1), ('Pretrained', 1), ('Pretrained', -1)]
)
def test_an_initializer_behind_ours_is_an_error(tmp_path, file, kind, order):
    constant = {'type': 'Constant', 'val': 7, 'layer': 'Conv2d'}
    other = constant if kind == 'Constant' else {'type': kind, 'checkpoint': file}
    message = f'{kind} behind PretrainedBackbone.* Put PretrainedBackbone last'
    with pytest.raises(PretrainedWeightsError, match=message):
        start_of(tmp_path, model=Net([init_cfg(file), other][::order]))


def test_the_report_is_in_the_log_and_beside_it_as_json(tmp_path, file):
    start_of(tmp_path, PretrainedBackboneHook(file))
    (log,) = tmp_path.glob('*/*.log')
    assert 'coverage 100.00%: 100 of 100 tensors' in log.read_text()
    (values,) = (json.loads(path.read_text()) for path in log.parent.glob('pretrained_*.json'))
    assert (values['module'], values['coverage']) == ('ResNet', 1)


def test_weights_that_do_not_fit_stop_the_run_and_the_log_has_the_table(tmp_path, file):
    model = Net(backbone=build(**{**NARROW_RESNET, 'type': 'ResNetV1c'}))
    with pytest.raises(PretrainedWeightsError, match="Set type='ResNet'"):
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


def log_of(work_dir: Path) -> str:
    (log,) = work_dir.glob('*/*.log')
    assert not list(log.parent.glob('pretrained_*.json'))
    return log.read_text()


@pytest.mark.parametrize('goes_on', ['resume', 'resume from', 'load_from'])
@pytest.mark.parametrize('way', ['config', 'hook', 'hook at once'])
def test_a_run_that_goes_on_from_a_checkpoint_needs_no_pretrained_weights(tmp_path, way, goes_on):
    checkpoint = tmp_path / 'before' / 'iter_2.pth'
    backbone = PlainBackbone if way == 'hook at once' else lambda: build(**NARROW_RESNET)
    make_runner(checkpoint.parent, model=Net(backbone=backbone()), lr=0.1, **SAVING).train()
    trained = torch.load(checkpoint, weights_only=False)['state_dict']

    gone = str(tmp_path / 'gone.pth')
    hooks = [] if way == 'config' else [PretrainedBackboneHook(gone)]
    options = {
        'resume': {'resume': True},
        'resume from': {'resume': True, 'load_from': str(checkpoint)},
        'load_from': {'load_from': str(checkpoint)},
    }[goes_on]
    if goes_on == 'resume':
        (tmp_path / 'last_checkpoint').write_text(str(checkpoint))
    model = Net(init_cfg(gone)) if way == 'config' else Net(backbone=backbone())
    cfg = {'by_epoch': False, 'max_iters': 3}
    start = start_of(tmp_path, *hooks, model=model, train_cfg=cfg, **options)
    assert all(torch.equal(start[name], trained[name]) for name in trained)
    assert f'{gone} is not loaded into' in log_of(tmp_path)
    assert f'the run goes on from {checkpoint}' in log_of(tmp_path)
    assert 'coverage' not in log_of(tmp_path)


def test_resuming_without_a_checkpoint_starts_from_the_pretrained_weights(tmp_path, file, network):
    assert has_weights_of(start_of(tmp_path, PretrainedBackboneHook(file), resume=True), network)


@pytest.mark.parametrize('lacks', ['the backbone', 'one tensor', 'one shape'])
def test_what_load_from_lacks_comes_from_the_pretrained_weights(tmp_path, file, network, lacks):
    theirs = randomized(Net(), seed=1).state_dict()
    if lacks == 'the backbone':
        theirs = {name: t for name, t in theirs.items() if not name.startswith('backbone.')}
    elif lacks == 'one tensor':
        del theirs['backbone.conv1.weight']
    else:
        theirs['backbone.conv1.weight'] = torch.zeros(8, 4, 7, 7)
    checkpoint = saved({'state_dict': theirs}, tmp_path / 'part.pth')
    start = start_of(tmp_path, model=Net(init_cfg(file)), load_from=checkpoint)
    assert torch.equal(start['backbone.conv1.weight'], network.conv1.weight)
    assert torch.equal(start['head.weight'], theirs['head.weight'])
    assert has_weights_of(start, network) == (lacks == 'the backbone')


def test_a_checkpoint_that_was_loaded_before_the_training_is_not_waited_for(
    tmp_path, file, network
):
    # mmengine initializes the model anew and does not load a second time.
    checkpoint = saved(randomized(Net(), seed=1), tmp_path / 'weights.pth')
    start = Start()
    runner = make_runner(tmp_path, start, model=Net(init_cfg(file)), load_from=checkpoint)
    runner.load_or_resume()
    runner.train()
    assert has_weights_of(start.weights, network)


def test_a_checkpoint_of_several_gpus_is_known_to_hold_the_model(tmp_path):
    theirs = {f'module.{name}': t for name, t in randomized(Net()).state_dict().items()}
    theirs = {name: t for name, t in theirs.items() if 'num_batches_tracked' not in name}
    checkpoint = saved({'state_dict': theirs}, tmp_path / 'weights.pth')
    model = Net(init_cfg(str(tmp_path / 'gone.pth')))
    start = start_of(tmp_path, model=model, load_from=checkpoint)
    assert torch.equal(start['backbone.conv1.weight'], theirs['module.backbone.conv1.weight'])


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
        nn.init.zeros_(self.head.weight)


class Considerate(Net):
    """A model whose own init_weights has a wish for its head only."""

    def init_weights(self):
        super().init_weights()
        nn.init.zeros_(self.head.weight)


@pytest.mark.parametrize('way', ['config', 'hook'])
def test_a_model_that_goes_past_the_settings_stops_the_run(tmp_path, file, way):
    hooks = [PretrainedBackboneHook(file)] if way == 'hook' else []
    model = Stubborn(None if hooks else init_cfg(file))
    message = r'backbone \(ResNet\) .* Stubborn\.init_weights\(\) leaves it out\. Let it call super'
    with pytest.raises(PretrainedWeightsError, match=message):
        start_of(tmp_path, *hooks, model=model)


def swin(init_cfg=None):
    # Its init_weights reads the file by itself and keeps what fits, be it nothing.
    sizes = {'embed_dims': 8, 'depths': (1,) * 4, 'num_heads': (1,) * 4, 'window_size': 2}
    return build(type='SwinTransformer', **sizes, init_cfg=init_cfg)


def inside_a_plain_module(init_cfg=None):
    if init_cfg:
        init_cfg = {**init_cfg, 'type': 'mmengine.PretrainedBackbone'}
    backbone = PlainBackbone()
    backbone.body = build(**NARROW_RESNET, init_cfg=init_cfg)
    return backbone


def initialized_already(init_cfg=None):
    if init_cfg:
        constant = {'type': 'Constant', 'val': 1, 'layer': 'Linear'}
        init_cfg = [constant, {**init_cfg, 'type': PretrainedBackbone}]
    backbone = build(**NARROW_RESNET, init_cfg=init_cfg)
    backbone.is_init = True
    return backbone


@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        (swin, 'backbone'),
        (inside_a_plain_module, 'backbone.body'),
        (initialized_already, 'backbone'),
    ],
)
def test_an_init_cfg_that_nobody_reads_stops_the_run_and_the_hook_mends_it(tmp_path, kind, name):
    theirs = randomized(Net(backbone=kind()).get_submodule(name))
    file = saved(theirs, tmp_path / 'weights.pth')
    message = rf"^{name} \(.*PretrainedBackboneHook', module='{name}'"
    with pytest.raises(PretrainedWeightsError, match=message):
        start_of(tmp_path / 'config', model=Considerate(backbone=kind(init_cfg(file))))

    hook = PretrainedBackboneHook(file, module=name)
    start = start_of(tmp_path / 'hook', hook, model=Considerate(backbone=kind()))
    assert all(torch.equal(start[f'{name}.{key}'], t) for key, t in theirs.named_parameters())


class Forgetful(Net):
    """A model that initializes all its convolutions last."""

    def init_weights(self):
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)


def initialized_as_a_whole(backbone):
    model = Net(backbone=backbone)
    model.init_cfg = {'type': 'Normal', 'layer': ['Conv2d', 'Linear']}
    return model


@pytest.mark.parametrize(
    ('whole', 'kind'),
    [
        (lambda backbone: Forgetful(backbone=backbone), lambda: build(**NARROW_RESNET)),
        (initialized_as_a_whole, swin),  # loaded before the run, because of its init_weights
    ],
)
def test_an_initialization_behind_the_loading_stops_the_run(tmp_path, whole, kind):
    file = saved(randomized(kind()), tmp_path / 'weights.pth')
    message = r'^backbone \(.* has lost the weights of .* initialized after they had been loaded'
    with pytest.raises(PretrainedWeightsError, match=message):
        start_of(tmp_path, PretrainedBackboneHook(file), model=whole(kind()))


def test_weights_of_a_backbone_may_overwrite_those_of_a_whole_model(tmp_path, file, network):
    whole = PretrainedBackboneHook(saved(randomized(Net(), seed=7), tmp_path / 'w.pth'), module='')
    start = start_of(tmp_path, whole, PretrainedBackboneHook(file), model=Considerate())
    assert has_weights_of(start, network)


def test_weights_of_a_whole_model_may_overwrite_those_of_its_backbone(tmp_path, file):
    theirs = randomized(Net(), seed=7)
    hook = PretrainedBackboneHook(saved(theirs, tmp_path / 'whole.pth'), module='')
    start = start_of(tmp_path, hook, model=Net(init_cfg(file)))
    assert torch.equal(start['backbone.conv1.weight'], theirs.backbone.conv1.weight)


def test_an_average_inside_the_model_needs_no_weights_of_its_own(tmp_path, file, network):
    model = Net(init_cfg(file))
    model.average = ExponentialMovingAverage(model.backbone)
    assert has_weights_of(start_of(tmp_path, model=model), network)


def test_a_part_that_does_not_exist_is_an_error_with_those_that_do(tmp_path, file):
    hook = PretrainedBackboneHook(file, module='backbone.layer9')
    with pytest.raises(PretrainedWeightsError, match=r"no part 'layer9'.*layer1, layer2"):
        start_of(tmp_path, hook)


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
    context, port = multiprocessing.get_context('fork'), free_port()
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


@pytest.mark.parametrize('foreign', [{'std': 0.02}, [{'std': 0.02}], 'normal', 0.02])
def test_init_cfg_of_another_package_in_a_part_stops_nothing(tmp_path, foreign):
    net = Net()
    net.head.init_cfg = foreign
    make_runner(tmp_path, model=net).train()
