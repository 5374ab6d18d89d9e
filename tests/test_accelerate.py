"""``import pspnet_plugin.accelerate``: an unchanged stock config, stock tools, the same results."""

import argparse
import copy
import types

import pytest
import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead, OCRHead, PSPHead, SegformerHead, UPerHead
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from pspnet_plugin.app.training import stock_tools
from pspnet_plugin.compat import runner as callbacks
from pspnet_plugin.heads import FactorizedFCNHead, FactorizedPSPHead
from pspnet_plugin.heads.convolutions import PyramidConv2d
from pspnet_plugin.segmentors import LogitsTTAModel
from pspnet_plugin.speed import ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook
from pspnet_plugin.speed import hooks as speed_hooks
from tests.helpers.processes import run_copy, run_python
from tests.helpers.street_scenes import NARROW_MODEL, small_run_options

STOCK = {
    'PSPHead': PSPHead,
    'FCNHead': FCNHead,
    'UPerHead': UPerHead,
    'SegformerHead': SegformerHead,
    'OCRHead': OCRHead,
    'EncoderDecoder': EncoderDecoder,
    'SegTTAModel': SegTTAModel,
}
NORM = {'type': 'BN', 'requires_grad': True}
HEAD = {'num_classes': 5, 'dropout_ratio': 0.1, 'norm_cfg': NORM}
MODEL = ConfigDict(
    type='EncoderDecoder',
    backbone={
        'type': 'ResNetV1c',
        'depth': 18,
        'base_channels': 4,
        'stem_channels': 4,
        'strides': (1, 2, 1, 1),
        'dilations': (1, 1, 2, 4),
        'norm_cfg': NORM,
        'contract_dilation': True,
    },
    decode_head={'type': 'PSPHead', 'in_channels': 32, 'in_index': 3, 'channels': 8, **HEAD},
    auxiliary_head={
        'type': 'FCNHead',
        'in_channels': 16,
        'in_index': 2,
        'channels': 8,
        'num_convs': 1,
        'concat_input': False,
        'loss_decode': {'type': 'CrossEntropyLoss', 'loss_weight': 0.4},
        **HEAD,
    },
    test_cfg={'mode': 'whole'},
)


def build_model():
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(copy.deepcopy(MODEL))
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def print_modules_of_stock_names():
    print([MODELS.get(name).__module__ for name in STOCK])


def test_stock_names_mean_stock_classes_in_a_process_that_does_not_import_it(tmp_path):
    code, output = run_copy(print_modules_of_stock_names, folder=tmp_path)
    assert code == 0, output[-4000:]
    assert output.splitlines()[-1] == str([cls.__module__ for cls in STOCK.values()])
    assert all(cls.__module__.startswith('mmseg.') for cls in STOCK.values())


def test_stock_names_mean_the_plugins_classes_once_it_is_imported(accelerate):
    for _ in range(2):  # twice is the same as once
        accelerate()
        model = build_model()
        assert type(model.decode_head) is FactorizedPSPHead
        assert type(model.auxiliary_head) is FactorizedFCNHead
        assert MODELS.get('SegTTAModel') is LogitsTTAModel
        assert callbacks.added_hooks == [ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook]


def test_a_class_that_the_project_gave_a_stock_name_stays(accelerate):
    class OwnHead(FCNHead):
        pass

    MODELS.register_module(name='FCNHead', module=OwnHead, force=True)
    accelerate()
    model = build_model()
    assert type(model.decode_head) is FactorizedPSPHead
    assert type(model.auxiliary_head) is OwnHead


@pytest.mark.parametrize(
    ('config', 'classes'),
    [
        ('upernet/upernet_r18_4xb2-40k_cityscapes-512x1024', ['FactorizedUPerHead']),
        (
            'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512',
            ['FactorizedUPerHead'],
        ),
        ('segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512', ['FactorizedSegformerHead']),
        ('hrnet/fcn_hr18s_4xb2-40k_cityscapes-512x1024', ['FactorizedFCNHead']),
        (
            'ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024',
            ['FactorizedFCNHead', 'FactorizedOCRHead'],
        ),
    ],
)
def test_heads_of_stock_configs_split_their_convolutions(accelerate, config, classes):
    cfg = Config.fromfile(stock_tools().parent / 'configs' / f'{config}.py')
    heads = cfg.model.decode_head if len(classes) > 1 else [cfg.model.decode_head]
    accelerate()
    for head, name in zip(heads, classes):
        with DefaultScope.overwrite_default_scope('mmseg'):
            built = MODELS.build(head)
        assert type(built).__name__ == name
        assert any(isinstance(module, PyramidConv2d) for module in built.modules())


def test_checkpoints_go_both_ways(accelerate):
    stock = build_model()
    accelerate()
    ours = build_model()
    assert {k: v.shape for k, v in stock.state_dict().items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }
    ours.load_state_dict(stock.state_dict(), strict=True)


def test_prediction_has_the_labels_of_stock_and_no_logits_unless_asked(accelerate):
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stock = build_model().eval().predict(images)
        accelerate()
        model = build_model().eval()
        ours = model.predict(images)
        model.test_cfg.seg_logits = True
        asked = model.predict(images)
    for theirs, mine, full in zip(stock, ours, asked):
        agreed = mine.pred_sem_seg.data == theirs.pred_sem_seg.data
        assert agreed.double().mean() >= 0.9999
        assert theirs.pred_sem_seg.data.unique().numel() > 1
        assert 'seg_logits' not in mine
        assert 'seg_logits' in full


def loss_curve(model, dtype, steps=100):
    """The losses of ``steps`` steps on images whose labels can be learned from them.

    Batches are of eight: with two, the batch norm behind the 1 x 1 pooling is nearly a sign
    function, and turns any rounding into another training.
    """
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 24, 32, generator=generator, dtype=torch.float64).to(dtype)
    label = (images[:, :1] > 0).long() + 2 * (images[:, 1:2] > 0).long()
    samples = [SegDataSample(gt_sem_seg=PixelData(data=classes)) for classes in label]
    model = model.to(dtype).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    torch.manual_seed(2)
    curve = []
    for _ in range(steps):
        loss, _ = model.parse_losses(model.loss(images, samples))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return torch.tensor(curve, dtype=torch.float64)


@pytest.mark.parametrize(
    ('dtype', 'noise'), [(torch.float64, 1e-12), (torch.float32, 1e-2)], ids=['float64', 'float32']
)
def test_a_hundred_steps_give_the_loss_curve_of_stock(accelerate, dtype, noise):
    stock = loss_curve(build_model(), dtype)
    accelerate()
    ours = loss_curve(build_model().to(memory_format=torch.channels_last), dtype)
    torch.testing.assert_close(ours, stock, rtol=noise, atol=0)
    assert stock[-10:].mean() < 0.9 * stock[:10].mean(), 'nothing was learned'


@pytest.mark.parametrize('name', list(STOCK))
def test_full_name_of_a_stock_class_builds_that_class(accelerate, name):
    accelerate()
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert MODELS.get(f'mmseg.models.{name}') is STOCK[name]


PARTS = (ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook)


@pytest.mark.parametrize('off', PARTS)
def test_each_hook_is_switched_off_alone(accelerate, tmp_path, off, monkeypatch):
    accelerate()
    runner = Runner(
        model=TinyModel(),
        work_dir=str(tmp_path),
        custom_hooks=[{'type': off.__name__, 'enabled': False}],
        test_dataloader={'dataset': [], 'sampler': {'type': 'DefaultSampler'}},
        test_cfg={},
        test_evaluator=[],
    )
    hooks = {type(hook): hook for hook in runner.hooks}
    assert {part: hooks[part].enabled for part in PARTS} == {
        part: part is not off for part in PARTS
    }
    kept = []
    monkeypatch.setattr(speed_hooks, 'keep_freed_memory', lambda: kept.append(1) or True)
    monkeypatch.setattr(speed_hooks, 'get_device', lambda: 'cpu')
    for moment in ('before_run', 'before_test', 'before_test_epoch'):
        runner.call_hook(moment)
    channels_last = runner.model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    done = {
        ChannelsLastHook: channels_last,
        FoldBatchNormHook: 'test_step' in vars(runner.model),
        KeepMemoryHook: bool(kept),
    }
    assert done == {part: part is not off for part in PARTS}


class TinyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.norm(self.conv(inputs))


def dynamic_filter_network():
    """DMNet, and a batch of two."""
    cfg = copy.deepcopy(MODEL)
    cfg.decode_head = dict(HEAD, type='DMHead', in_channels=32, in_index=3, channels=8)
    cfg.decode_head.filter_sizes = (1, 3)
    del cfg.auxiliary_head
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg)
    label = torch.randint(0, 5, (1, 32, 32))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for _ in range(2)]
    for sample in samples:
        sample.set_metainfo({'img_shape': (32, 32), 'ori_shape': (32, 32)})
    return model.train(), {'inputs': torch.randn(2, 3, 32, 32), 'data_samples': samples}


def test_dynamic_filters_of_dmnet_train_contiguous_with_one_warning():
    states, warnings = [], []
    for hook in (ChannelsLastHook(enabled=False), ChannelsLastHook()):
        model, batch = dynamic_filter_network()
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
        logger = types.SimpleNamespace(warning=warnings.append)
        runner = types.SimpleNamespace(model=model, optim_wrapper=wrapper, logger=logger)
        runner.train_loop = types.SimpleNamespace(run=None)
        hook.before_train(runner)
        torch.manual_seed(1)
        for step in range(2):
            hook.before_train_iter(runner, step, batch)
            model.train_step(copy.deepcopy(batch), optim_wrapper=wrapper)
        states.append(model.state_dict())
    (message,) = warnings
    assert 'view size is not compatible' in message
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def write_config(folder, acceleration):
    base = 'configs/pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    text = f'_base_ = {str(stock_tools().parent / base)!r}\n'
    text += "norm_cfg = dict(type='BN', requires_grad=True)\n"
    text += (
        'model = dict(pretrained=None, backbone=dict(norm_cfg=norm_cfg), '
        'decode_head=dict(norm_cfg=norm_cfg), auxiliary_head=dict(norm_cfg=norm_cfg))\n'
    )
    imports = ['pspnet_plugin', 'pspnet_plugin.accelerate'][: 2 if acceleration else 1]
    path = folder / 'config.py'
    path.write_text(text + f'custom_imports = dict(imports={imports})\n')
    return path


def stock_run_options(data_root):
    """The shared options; a stock training pipeline is one transform shorter than the plugin's."""
    moved = (('pipeline.3.scale', 'pipeline.2.scale'), ('pipeline.4.crop', 'pipeline.3.crop'))
    options = [str(option) for option in small_run_options(data_root)]
    for ours, stock in moved:
        options = [option.replace(ours, stock) for option in options]
    return [*options, *NARROW_MODEL]


def run_config(path, work_dir, data_root):
    """Train, validate and test as the tools do, in this process; the runner and its metrics."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = parser.parse_args(stock_run_options(data_root))
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options.cfg_options)
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, runner.test()


def test_runner_trains_the_same_weights_and_reports_the_same_metrics(
    accelerate, street_scenes, tmp_path
):
    results = []
    for name in ('stock', 'accelerated'):
        (tmp_path / name).mkdir()
        if name == 'accelerated':
            accelerate()
        path = write_config(tmp_path / name, acceleration=False)
        results.append(run_config(path, tmp_path / name, street_scenes))
    (stock, expected), (ours, metrics) = results
    # Of 16384 pixels, those where two classes tie but for rounding may go either way.
    assert metrics == pytest.approx(expected, abs=0.1)
    states = [
        torch.load(tmp_path / name / 'iter_4.pth', weights_only=False)['state_dict']
        for name in ('stock', 'accelerated')
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-3)
    for hook in (ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook):
        assert sum(type(registered) is hook for registered in ours.hooks) == 1
        assert not any(type(registered) is hook for registered in stock.hooks)


def test_stock_train_tool_runs_a_stock_config_accelerated_and_says_so_once(street_scenes, tmp_path):
    path = write_config(tmp_path, acceleration=True)
    options = stock_run_options(street_scenes)
    code, output = run_python(
        stock_tools() / 'train.py', path, '--work-dir', tmp_path / 'run', *options
    )
    assert code == 0, output[-4000:]
    (line,) = [line for line in output.splitlines() if 'pspnet_plugin.accelerate replaces' in line]
    for name, cls in (('PSPHead', FactorizedPSPHead), ('FCNHead', FactorizedFCNHead)):
        assert f'{name} by {cls.__name__}' in line
    assert 'FoldBatchNormHook folded' in output
    assert 'mIoU' in output
