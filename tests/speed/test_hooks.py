"""The hooks in real runs of mmengine's Runner over a tiny model."""

import copy
import logging
import random
import types

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel, BaseTTAModel, ImgDataPreprocessor, MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS, DefaultScope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from torch import nn
from torch.utils.data import Dataset

from pspnet_plugin import config_path
from pspnet_plugin.speed import ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook
from pspnet_plugin.speed import hooks as hooks_module
from tests.helpers.freezing_runs import loader
from tests.helpers.torch_features import VERSION


class Images(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {'inputs': torch.randn(3, 12, 12, generator=generator).double()}


norms_that_predicted = []


@pytest.fixture(autouse=True)
def nothing_predicted_yet():
    norms_that_predicted.clear()


class TinyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.out = nn.Conv2d(4, 2, 3)
        self.double()  # so that runs are compared without the rounding of a CPU's own kernels
        self.layouts = set()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.norm(self.conv(inputs))
        self.layouts.add(features.is_contiguous(memory_format=torch.channels_last))
        logits = self.out(features.relu())
        if mode == 'loss':
            return {'loss': logits.square().mean()}
        if mode == 'predict':
            norms_that_predicted.append(type(self.norm))
            return list(logits)
        return logits


class MeanLogit(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [sample.double().mean().item() for sample in data_samples]

    def compute_metrics(self, results):
        return {'mean': sum(results) / len(results)}


SGD = {'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}}


def build_runner(work_dir, hooks, model=None, metric=None, **kwargs):
    torch.manual_seed(0)
    train, val, test = ({**loader(), 'dataset': Images()} for _ in range(3))
    return Runner(
        model=model or TinyModel(),
        work_dir=str(work_dir),
        train_dataloader=train,
        val_dataloader=val,
        test_dataloader=test,
        train_cfg={'by_epoch': True, 'max_epochs': 2, 'val_interval': 1},
        val_cfg={},
        test_cfg={},
        val_evaluator=[metric or MeanLogit()],
        test_evaluator=[MeanLogit()],
        optim_wrapper=SGD,
        custom_hooks=hooks,
        randomness={'seed': 0},
        **kwargs,
    )


class Keys(Hook):
    """Notes the keys that a hook would save that saves whenever something has been predicted."""

    def __init__(self):
        self.seen = set()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen |= set(runner.model.state_dict())

    def after_val_epoch(self, runner, metrics=None):
        self.seen |= set(runner.model.state_dict())


@pytest.mark.parametrize('wrap', [lambda model: model, MMDistributedDataParallel])
def test_folded_copy_validates_and_every_hook_sees_the_trained_model(tmp_path, process_group, wrap):
    keys, trained = Keys(), wrap(TinyModel())
    expected = set(trained.state_dict())
    build_runner(tmp_path, [FoldBatchNormHook(), keys], trained).train()
    assert norms_that_predicted == [nn.Identity] * 4
    assert keys.seen == expected


class InterruptedMetric(MeanLogit):
    def compute_metrics(self, results):
        raise KeyboardInterrupt


class InterruptedModel(TinyModel):
    def val_step(self, data):
        raise KeyboardInterrupt


class InterruptedHook(Hook):
    """Raises in one of a hook's methods, after the plugin's hooks."""

    priority = 'LOWEST'

    def __init__(self, moment):
        setattr(self, moment, self.interrupt)

    def interrupt(self, *arguments, **kwargs):
        raise KeyboardInterrupt


HOOKED_MOMENTS = [
    *('before_train_iter', 'before_val_epoch', 'before_val_iter', 'after_val_iter'),
    *('after_val_epoch', 'after_val', 'after_train_iter'),
]


@pytest.mark.parametrize('wrap', [lambda model: model, MMDistributedDataParallel])
@pytest.mark.parametrize('interrupted', ['metric', 'model', *HOOKED_MOMENTS])
def test_whatever_ends_a_run_the_model_is_the_model_and_trains_on(
    tmp_path, process_group, interrupted, wrap
):
    hooks = [ChannelsLastHook(), FoldBatchNormHook(), {'type': 'EMAHook'}]
    if interrupted in HOOKED_MOMENTS:
        hooks.append(InterruptedHook(interrupted))
    model = wrap(InterruptedModel() if interrupted == 'model' else TinyModel())
    metric = InterruptedMetric() if interrupted == 'metric' else MeanLogit()
    runner = build_runner(tmp_path, hooks, model, metric)
    keys, parts = set(model.state_dict()), set(vars(model))
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    assert runner.model is model
    assert set(model.state_dict()) == keys
    assert set(vars(model)) == parts, 'a step of the model is still replaced'
    before = {name: value.clone() for name, value in model.named_parameters()}
    again = build_runner(tmp_path, [ChannelsLastHook(), FoldBatchNormHook()], runner.model)
    again.model.train_step(next(iter(again.train_dataloader)), again.build_optim_wrapper(SGD))
    assert not any(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_interrupted_runner_trains_on_when_it_is_told_to_train_again(tmp_path):
    hook = InterruptedHook('after_val_iter')
    runner = build_runner(tmp_path, [FoldBatchNormHook(), hook])
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    del hook.after_val_iter
    before = {name: value.clone() for name, value in runner.model.named_parameters()}
    runner.train()
    assert not any(torch.equal(before[n], p) for n, p in runner.model.named_parameters())
    assert norms_that_predicted == [nn.Identity] * 3


@pytest.mark.parametrize('phase', ['val', 'test'])
def test_copies_of_an_interrupted_model_are_independent_of_it(tmp_path, phase):
    hook = InterruptedHook(f'before_{phase}_iter')
    runner = build_runner(tmp_path, [ChannelsLastHook(), FoldBatchNormHook(), hook])
    with pytest.raises(KeyboardInterrupt):
        getattr(runner, phase)()
    copied = copy.deepcopy(runner.model)
    with torch.no_grad():
        copied.out.weight.zero_()
        copied.out.bias.zero_()
    data = next(iter(runner.val_dataloader))
    assert all((logits == 0).all() for logits in copied.val_step(data))
    assert all((logits == 0).all() for logits in copied.test_step(data))


def test_training_and_metrics_are_those_of_a_run_without_the_hook(tmp_path):
    results = []
    for hooks in ([], [FoldBatchNormHook()]):
        runner = build_runner(tmp_path, hooks)
        runner.train()
        results.append((runner.test()['mean'], runner.model.state_dict()))
    (mean, weights), (folded_mean, folded_weights) = results
    assert folded_mean == pytest.approx(mean, rel=1e-9)
    torch.testing.assert_close(folded_weights, weights, rtol=1e-12, atol=1e-12)


def test_best_checkpoint_holds_the_trained_model(tmp_path):
    checkpoint = {'type': 'CheckpointHook', 'interval': 1, 'save_best': 'mean', 'rule': 'less'}
    runner = build_runner(tmp_path, [FoldBatchNormHook()], default_hooks={'checkpoint': checkpoint})
    runner.train()
    (best,) = tmp_path.glob('best_*.pth')
    saved = torch.load(best, weights_only=False)['state_dict']
    TinyModel().load_state_dict(saved, strict=True)


def test_averaged_weights_of_the_ema_hook_are_the_ones_folded(tmp_path):
    means = []
    ema = {'type': 'EMAHook', 'momentum': 0.5}
    for hooks in ([ema], [FoldBatchNormHook(), ema]):
        runner = build_runner(tmp_path, hooks)
        runner.train()
        means.append(runner.val_loop.run()['mean'])
        means.append(torch.cat([p.flatten() for p in runner.model.parameters()]).sum().item())
    runner = build_runner(tmp_path, [])
    runner.train()
    assert means[2:] == pytest.approx(means[:2], rel=1e-9)
    assert runner.val_loop.run()['mean'] != pytest.approx(means[0], rel=1e-3), 'EMA did nothing'


class NeedsDataSamples(TinyModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'tensor':
            raise NotImplementedError('no')
        return super().forward(inputs, data_samples, mode)


@pytest.fixture
def runner_of(tmp_path, monkeypatch):
    """A runner of ``model`` and the list of (level, message) that it logs."""

    def build(model, *hooks):
        runner = build_runner(tmp_path, hooks, model)
        assert runner.val_loop is not None  # built, and what that logs is logged
        logged = []
        monkeypatch.setattr(runner.logger, 'log', lambda *arguments: logged.append(arguments))
        return runner, logged

    return build


def predicting(runner):
    """The module that does the step of validation."""
    return runner.model.val_step.__self__


class Noisy(TinyModel):
    """Changes a buffer and draws random numbers of all kinds whenever it runs, and says so."""

    def __init__(self):
        super().__init__()
        self.always = nn.BatchNorm2d(3).double()
        self.always.train = types.MethodType(lambda self, mode=True: self, self.always)
        self.register_buffer('runs', torch.zeros(()))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        self.runs += torch.rand(()) + np.random.rand() + random.random()
        return super().forward(self.always(inputs), data_samples, mode)


def test_validation_leaves_no_trace_in_the_trained_model(runner_of):
    model = Noisy()
    calls = []
    model.out.register_forward_hook(lambda *arguments: calls.append(arguments))
    runner, _ = runner_of(model)
    model.conv.eval()

    def trace():
        tensors = {name: value.clone() for name, value in model.state_dict().items()}
        flags = [(module.training, dict(module._forward_hooks)) for module in model.modules()]
        states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        return tensors, flags, states

    before = trace()
    hook = FoldBatchNormHook()
    hook.before_val_epoch(runner)
    assert predicting(runner) is not model
    assert calls == []
    hook.after_val_epoch(runner)
    after = trace()
    assert runner.model is model
    assert all(torch.equal(before[0][name], value) for name, value in after[0].items())
    assert before[1] == after[1]
    assert torch.equal(before[2][0], after[2][0])
    assert (before[2][1] == after[2][1]).all()
    assert before[2][2] == after[2][2]


def test_hooks_on_the_model_see_every_image_of_validation_and_nothing_else(tmp_path):
    model, shapes = TinyModel(), []
    model.out.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    build_runner(tmp_path, [FoldBatchNormHook()], model).val()
    assert norms_that_predicted == [nn.Identity] * 2
    assert shapes == [(2, 2, 10, 10)] * 2


class FourBands(TinyModel):
    """The first weight of four dimensions is not the one that reads the image."""

    def __init__(self):
        super().__init__()
        out, conv = self.out, nn.Conv2d(4, 4, 3, padding=1, bias=False).double()
        del self.out, self.conv
        self.position = nn.Parameter(torch.zeros(1, 7, 1, 1).double())
        self.out, self.conv = out, conv
        self.extra = nn.Conv2d(2, 4, 1).double()


def with_four_means():
    model = FourBands()
    model.data_preprocessor = ImgDataPreprocessor()
    model.data_preprocessor.register_buffer('mean', torch.zeros(4, 1, 1))
    return model


class StartsAtRandom(TinyModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(inputs + torch.rand_like(inputs), data_samples, mode)


def transformer_for_images_of_one_size():
    backbone = {'type': 'BEiT', 'img_size': (48, 32), 'embed_dims': 8, 'num_layers': 2}
    backbone.update(num_heads=2, out_indices=(0, 1), norm_eval=False)
    head = {'type': 'FCNHead', 'in_channels': 8, 'in_index': 1, 'channels': 4, 'num_classes': 3}
    head.update(norm_cfg={'type': 'BN'})
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(
            {'type': 'EncoderDecoder', 'backbone': backbone, 'decode_head': head, 'test_cfg': {}}
        )


@pytest.mark.parametrize(
    ('build', 'count'),
    [(with_four_means, 1), (StartsAtRandom, 1), (transformer_for_images_of_one_size, 3)],
)
def test_examples_are_such_that_the_model_folds(runner_of, build, count):
    runner, logged = runner_of(build())
    before = torch.get_rng_state()
    FoldBatchNormHook().before_val_epoch(runner)
    told = f'FoldBatchNormHook folded {count} batch norms for prediction.'
    assert logged == [(logging.INFO, told)]
    assert torch.equal(torch.get_rng_state(), before)


def test_model_that_cannot_run_the_example_validates_as_it_is_and_one_warning_says_why(runner_of):
    runner, logged = runner_of(NeedsDataSamples(), FoldBatchNormHook())
    runner.train()
    assert norms_that_predicted == [nn.BatchNorm2d] * 4
    ((level, message),) = [told for told in logged if 'FoldBatchNormHook' in told[1]]
    assert level == logging.WARNING
    assert "NotImplementedError('no')" in message


def test_network_of_the_demo_is_folded_whole(runner_of):
    cfg = Config.fromfile(config_path('psp_efflite0_bluemarble.py')).model
    cfg.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg)
    runner, logged = runner_of(model)
    FoldBatchNormHook().before_val_epoch(runner)
    left = [n for n, m in predicting(runner).named_modules() if isinstance(m, nn.BatchNorm2d)]
    # FactorizedPSPHead computes this convolution in parts.
    assert left == []
    assert logged[0][0] == logging.INFO


def test_model_whose_methods_are_replaced_as_by_compilation_predicts_the_same(tmp_path):
    means = []
    for hooks in ([], [FoldBatchNormHook()]):
        model = TinyModel()
        val_step = model.val_step
        model.val_step = lambda data, val_step=val_step: val_step(data)  # A copy calls this model.
        runner = build_runner(tmp_path, hooks, model)
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        means.append(runner.val()['mean'])
    assert means[1] == pytest.approx(means[0], rel=1e-9)


@MODEL_WRAPPERS.register_module()
class ShardedModel(nn.Module):
    """Stands for a wrapper that holds only a part of each parameter."""

    def __init__(self, module):
        super().__init__()
        self.module, self.norm = module, module.norm
        self.val_step = module.val_step


def test_sharded_model_is_left_alone(tmp_path):
    build_runner(tmp_path, [FoldBatchNormHook()], ShardedModel(TinyModel())).val()
    assert norms_that_predicted == [nn.BatchNorm2d] * 2


def one_view(samples):
    """A batch as a test loader with augmentations gives it: a list of views for each key."""
    return {'inputs': [torch.stack([sample['inputs'] for sample in samples])]}


class TinyTTAModel(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return [views[0] for views in data_samples_list]


def test_model_inside_test_time_augmentation_is_folded(tmp_path):
    model = TinyTTAModel(TinyModel())
    runner = build_runner(tmp_path, [FoldBatchNormHook()], model)
    runner.test_loop.dataloader.collate_fn = one_view
    runner.test()
    assert norms_that_predicted == [nn.Identity] * 2
    assert isinstance(model.module.norm, nn.BatchNorm2d)


class Volumes(TinyModel):
    def __init__(self):
        super().__init__()
        self.volume = nn.Conv3d(1, 1, (3, 1, 1), padding=(1, 0, 0)).double()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(self.volume(inputs[:, None])[:, 0], data_samples, mode)


@pytest.mark.parametrize('model', [TinyModel, Volumes])
@pytest.mark.parametrize('phase', ['train', 'val', 'test'])
def test_feature_maps_are_channels_last_in_every_phase(tmp_path, phase, model):
    runner = build_runner(tmp_path, [ChannelsLastHook()], model())
    getattr(runner, phase)()
    assert runner.model.layouts == {True}
    assert runner.model.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_starts_from_the_same_weights_and_trains_the_same(tmp_path):
    states = []
    for hooks in ([], [ChannelsLastHook()]):
        model = TinyModel()
        model.init_cfg = {'type': 'Kaiming', 'layer': 'Conv2d'}
        runner = build_runner(tmp_path, hooks, model)
        runner.train()
        states.append(copy.deepcopy(runner.model.state_dict()))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-12)


def test_weights_are_saved_in_the_order_in_memory_of_a_run_without_the_hook(tmp_path):
    strides = []
    for number, hooks in enumerate(([], [ChannelsLastHook()])):
        folder = tmp_path / str(number)
        build_runner(folder, hooks).train()
        weights = torch.load(folder / 'epoch_2.pth', weights_only=False)['state_dict']
        strides.append({name: value.stride() for name, value in weights.items()})
    assert strides[1] == strides[0]


class InstanceNormed(TinyModel):
    """With nothing behind the norm that would change the layout of its gradient."""

    def __init__(self, activation):
        super().__init__()
        self.norm = nn.Sequential(nn.InstanceNorm2d(4, affine=True), activation).double()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.out(self.norm(self.conv(inputs)))
        return {'loss': logits.sin().mean()} if mode == 'loss' else list(logits)


@pytest.mark.parametrize('images', [1, 2])
@pytest.mark.parametrize('activation', [nn.Identity, nn.GELU, nn.Hardswish])
def test_instance_norm_trains_the_same_with_the_hook(tmp_path, activation, images):
    states = []
    for hooks in ([], [ChannelsLastHook()]):
        torch.manual_seed(0)
        runner = build_runner(tmp_path, hooks, InstanceNormed(activation()))
        runner._train_dataloader['batch_size'] = images
        runner.train()
        states.append(runner.model.state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(('channels', 'stride'), [(8, 2), (16, 2), (8, 1)])
def test_narrow_strided_convolutions_stay_contiguous(tmp_path, channels, stride):
    class Narrow(TinyModel):
        def __init__(self):
            super().__init__()
            self.shortcut = nn.Conv2d(channels, 4, 1, stride)  # PyTorch's gradient may crash
            self.shortcut.requires_grad_(False)

    runner = build_runner(tmp_path, [ChannelsLastHook()], Narrow())
    runner.train()
    layout = torch.contiguous_format if (channels, stride) == (8, 2) else torch.channels_last
    assert runner.model.conv.weight.is_contiguous(memory_format=layout)


needs_fused = pytest.mark.skipif(VERSION < (2, 4), reason='no fused SGD on CPUs before torch 2.4')


@pytest.mark.parametrize('more', [pytest.param({'fused': True}, marks=needs_fused), {}], ids=str)
@pytest.mark.parametrize('hooks', [('', 'ChannelsLastHook'), ('ChannelsLastHook', '')])
def test_a_run_resumed_with_or_without_the_hook_goes_on(tmp_path, more, hooks):
    optimizer = {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, **more}
    states = []
    for used in (('', ''), hooks):
        for epochs, hook in enumerate(used, start=1):
            runner = build_runner(tmp_path / str(used), [{'type': hook}] if hook else [])
            runner._train_loop['max_epochs'] = epochs
            runner.optim_wrapper = {'optimizer': optimizer}
            runner._resume = epochs > 1
            runner.train()
        states.append(runner.model.state_dict())
    torch.testing.assert_close(states[1], states[0], rtol=1e-9, atol=1e-12)


class ContiguousOnly(TinyModel):
    """Changes statistics and draws random numbers before it fails."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.norm(self.conv(inputs))
        noise = torch.rand_like(inputs) * np.random.rand() * random.random()
        if mode == self.fails:
            features.view(1, -1, 12, 12)
        return super().forward(inputs + noise, data_samples, mode)


@pytest.mark.parametrize(('fails', 'warnings'), [('loss', 1), ('predict', 1), ('never', 0)])
def test_model_that_fails_channels_last_trains_the_same_contiguous(
    tmp_path, fails, warnings, monkeypatch
):
    states, logged = [], []
    for hooks in ([], [ChannelsLastHook()]):
        torch.manual_seed(0)
        model = ContiguousOnly()
        model.fails = fails
        runner = build_runner(tmp_path, hooks, model)
        monkeypatch.setattr(runner.logger, 'warning', logged.append)
        random.seed(0)
        runner.train()
        states.append(copy.deepcopy(model.state_dict()))
    told = [message for message in logged if 'leaves the model contiguous' in message]
    assert len(told) == warnings
    assert model.conv.weight.is_contiguous() == (fails != 'never')
    assert not {'train_step', 'val_step'} & set(vars(model))
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-12)


class FailsAnyway(TinyModel):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise RuntimeError(f'call {len(self.layouts)}{self.layouts.add(len(self.layouts)) or ""}')


def test_an_error_that_is_not_the_formats_is_the_one_that_is_raised(tmp_path):
    with pytest.raises(RuntimeError, match='call 0'):
        build_runner(tmp_path, [ChannelsLastHook()], FailsAnyway()).train()


@pytest.mark.parametrize(
    ('device', 'enabled', 'told'), [('cpu', True, 1), ('cuda', True, 0), ('cpu', False, 0)]
)
def test_memory_is_kept_in_runs_on_a_cpu(tmp_path, monkeypatch, device, enabled, told):
    logged = []
    monkeypatch.setattr(hooks_module, 'get_device', lambda: device)
    runner = build_runner(tmp_path, [KeepMemoryHook(enabled)])
    monkeypatch.setattr(runner.logger, 'info', logged.append)
    runner.train()
    assert len([m for m in logged if 'keeps the memory of each step' in m]) == told
