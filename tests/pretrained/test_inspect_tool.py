"""``tools/inspect_pretrained.py``: what a run would load, its table, its exit code."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import timm
import torchvision

from .networks import NARROW_RESNET, randomized, saved

ROOT = Path(__file__).resolve().parents[2]
R50 = ROOT / 'configs' / 'psp_r50_cityscapes.py'
NARROW_HEADS = [
    '--cfg-options',
    'model.decode_head.channels=8',
    'model.auxiliary_head.channels=8',
]
PLAIN_RESNET = [*NARROW_HEADS, 'model.backbone.type=ResNet']


@pytest.fixture
def inspect(monkeypatch, capsys):
    tool = runpy.run_path(str(ROOT / 'tools' / 'inspect_pretrained.py'), run_name='tool')

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, 'argv', ['inspect_pretrained.py', *map(str, arguments)])
        code = tool['main']()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture(scope='module')
def resnet50(tmp_path_factory) -> str:
    network = randomized(torchvision.models.resnet50())
    return saved(network, tmp_path_factory.mktemp('weights') / 'resnet50.pth')


def test_the_weights_of_the_demo_equal_those_of_their_own_library(inspect):
    code, output = inspect(ROOT / 'configs' / 'psp_efflite0_bluemarble.py', '--compare')
    assert code == 0
    assert '[backbone]' in output
    assert 'coverage 100.00%: 240 of 240 tensors' in output
    assert 'blocks.2 differs from the library by 0.0e+00' in output


def test_a_checkpoint_that_covers_too_little_exits_with_1_and_says_why(inspect, resnet50):
    code, output = inspect(R50, '--checkpoint', resnet50, *NARROW_HEADS)
    assert code == 1
    assert 'coverage 94.55%: 260 of 275 tensors' in output
    assert 'deep stem' in output


def test_a_comparison_shows_the_same_network(inspect, resnet50):
    arguments = [*PLAIN_RESNET, 'model.backbone.contract_dilation=True']
    code, output = inspect(R50, '--compare', '--checkpoint', resnet50, *arguments)
    assert code == 0
    assert output.count('differs from the library by 0.0e+00') == 4


def test_a_comparison_exits_with_1_where_the_names_agree_and_the_networks_do_not(inspect, resnet50):
    arguments = [*PLAIN_RESNET, 'model.backbone.contract_dilation=False']
    code, output = inspect(R50, '--compare', '--checkpoint', resnet50, *arguments)
    assert code == 1
    assert 'coverage 100.00%' in output


def test_a_comparison_with_timm_takes_its_own_model(inspect, tmp_path):
    file = saved(randomized(timm.create_model('resnet18')), tmp_path / 'resnet18.pth')
    backbone = '{"type": "TIMMBackbone", "model_name": "resnet18", "pretrained": False}'
    config = tmp_path / 'config.py'
    config.write_text(
        'model = dict(type="EncoderDecoder", '
        f'backbone=dict(init_cfg=dict(type="Pretrained", checkpoint={file!r}), **{backbone}), '
        'decode_head=dict(type="FCNHead", in_channels=512, channels=8, num_classes=2))\n'
        'custom_hooks = [dict(type="PretrainedBackboneHook", module="backbone", '
        f'checkpoint={file!r})]\n'
    )
    code, output = inspect(config, '--compare')
    assert code == 0
    assert output.count('differs from the library by') >= 4


def test_stock_configs_are_understood(inspect, tmp_path, monkeypatch):
    # Nothing is downloaded: the address leads nowhere.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'\n")
    code, output = inspect(config)
    assert code == 1
    assert 'resnet50_v1c-2cccc1ad.pth' in output


def test_class_names_come_from_the_training_dataset(inspect, tmp_path):
    from .test_conversions import small_segmentor

    theirs = randomized(small_segmentor(classes=2))
    meta = {'dataset_meta': {'classes': ['car', 'moon']}}
    file = saved({'meta': meta, 'state_dict': theirs.state_dict()}, tmp_path / 'weights.pth')
    hook = dict(type='PretrainedBackboneHook', checkpoint=file, module='', classes='by_name')
    norm = {'norm_cfg': {'type': 'BN'}}
    head = {**norm, 'in_channels': 64, 'channels': 16, 'num_classes': 19, 'in_index': 3}
    auxiliary = {**norm, 'in_channels': 32, 'channels': 8, 'num_classes': 19, 'in_index': 2}
    config = tmp_path / 'config.py'
    config.write_text(
        'train_dataloader = dict(dataset=dict(type="RepeatDataset", times=2, '
        'dataset=dict(type="CityscapesDataset")))\n'
        'model = dict(type="EncoderDecoder", '
        f'backbone=dict(**{ {**NARROW_RESNET, "type": "ResNetV1c"} }), '
        f'decode_head=dict(type="FactorizedPSPHead", **{head}), '
        f'auxiliary_head=dict(type="FCNHead", num_convs=1, **{auxiliary}))\n'
        f'custom_hooks = [{hook!r}]\n'
    )
    code, output = inspect(config)
    assert code == 0, output[-4000:]
    assert '1 of 19 classes by name: car' in output
