"""``tools/inspect_pretrained.py``: what a run would load, its table, its exit code."""

from __future__ import annotations

import fractions
import warnings
from pathlib import Path

import pytest
import timm
import torchvision
from mmengine.config import Config

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.training.launch import prepare
from pspnet_plugin.pretrained import PretrainedWeightsError
from tests.helpers.networks import NARROW_RESNET, build, randomized, saved, small_segmentor
from tests.helpers.processes import ROOT

R50 = ROOT / 'configs' / 'psp_r50_cityscapes.py'
NARROW_HEADS = [
    '--cfg-options',
    'model.decode_head.channels=8',
    'model.auxiliary_head.channels=8',
]
DEMO = ROOT / 'configs' / 'psp_efflite0_bluemarble.py'


@pytest.fixture
def inspect(capsys):

    def run(*arguments: object) -> tuple[int, str]:
        code = main(['inspect', *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def config_of(tmp_path):
    """Writes a config whose model has this backbone and a narrow head."""

    def write(backbone: dict, **more: object) -> Path:
        head = {'type': 'FCNHead', 'in_channels': 8, 'channels': 8, 'num_classes': 2}
        model = {'type': 'EncoderDecoder', 'backbone': backbone, 'decode_head': head}
        file = tmp_path / 'config.py'
        file.write_text(
            ''.join(f'{name} = {value!r}\n' for name, value in {'model': model, **more}.items())
        )
        return file

    return write


@pytest.fixture(scope='module')
def narrow(tmp_path_factory) -> str:
    return saved(randomized(build(**NARROW_RESNET)), tmp_path_factory.mktemp('weights') / 'r.pth')


@pytest.fixture(scope='module')
def resnet50(tmp_path_factory) -> str:
    network = randomized(torchvision.models.resnet50())
    return saved(network, tmp_path_factory.mktemp('weights') / 'resnet50.pth')


def test_the_report_of_the_demo_is_shown(inspect):
    code, output = inspect(DEMO)
    assert code == 0
    assert '[backbone]' in output
    assert 'coverage 100.00%: 240 of 240 tensors' in output


def test_a_checkpoint_that_covers_too_little_exits_with_1_and_says_why(inspect, resnet50):
    code, output = inspect(R50, '--checkpoint', resnet50, *NARROW_HEADS)
    assert code == 1
    assert 'coverage 94.55%: 260 of 275 tensors' in output
    assert "Set type='ResNet' in the backbone" in output


def test_stock_configs_are_understood(inspect, tmp_path, monkeypatch):
    # Nothing is downloaded: the address leads nowhere.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')
    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'\n")
    code, output = inspect(config)
    assert code == 1
    assert 'resnet50_v1c-2cccc1ad.pth' in output
    # A bar that never moved leaves no line behind.
    assert '\n\n' not in output


def test_class_names_come_from_the_training_dataset(inspect, tmp_path):
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


# --- which part, which file ---------------------------------------------------------------------


def test_the_empty_name_is_the_whole_model(inspect, config_of, tmp_path):
    config = config_of(NARROW_RESNET)
    code, output = inspect(config, '--module', '')
    assert code == 0
    assert 'loads no pretrained weights into the whole model.' in output
    whole = build(**Config.fromfile(config).model.to_dict())
    file = saved({'state_dict': whole.state_dict()}, tmp_path / 'whole.pth')
    code, output = inspect(config, '--module', '', '--checkpoint', file)
    assert code == 0
    assert '[whole model]\nPretrained weights of EncoderDecoder' in output
    assert 'decode_head.convs' in output


@pytest.mark.parametrize('with_checkpoint', [False, True])
def test_a_misspelt_part_is_an_error(inspect, config_of, narrow, with_checkpoint):
    more = ['--checkpoint', narrow] if with_checkpoint else []
    code, output = inspect(config_of(NARROW_RESNET), '--module', 'bakbone', *more)
    assert code == 1
    assert "error: module='bakbone': EncoderDecoder has no part 'bakbone'. It has" in output


def test_an_empty_checkpoint_is_an_error(inspect, config_of):
    code, output = inspect(config_of(NARROW_RESNET), '--checkpoint', '')
    assert code == 1
    assert '--checkpoint is empty' in output


def test_a_missing_config_is_one_line(inspect):
    code, output = inspect('nosuch.py')
    assert code == 1
    assert output.startswith('error: The config nosuch.py is no file.')
    assert output.count('\n') == 1


def test_the_hash_of_the_command_line_is_checked_and_that_of_another_file_is_not(
    inspect, config_of, narrow
):
    init_cfg = dict(type='PretrainedBackbone', checkpoint='other.pth', sha256='0123456789')
    config = config_of({**NARROW_RESNET, 'init_cfg': init_cfg})
    assert inspect(config, '--checkpoint', narrow)[0] == 0
    for more in (
        ['--sha256', '9876abcdef'],
        ['--cfg-options', 'model.backbone.init_cfg.sha256=9876abcdef'],
    ):
        code, output = inspect(config, '--checkpoint', narrow, *more)
        assert code == 1
        assert 'where 9876abcdef is expected' in output


def test_a_hash_of_decimal_digits_alone_is_one(inspect):
    # mmengine makes a number of it.
    assert inspect(DEMO, '--cfg-options', 'model.backbone.init_cfg.sha256=57934424')[0] == 0


def test_trust_pickle_is_the_word_for_a_file_that_holds_more_than_data(
    inspect, config_of, tmp_path
):
    content = {'state_dict': build(**NARROW_RESNET).state_dict(), 'lr': fractions.Fraction(1, 2)}
    file = saved(content, tmp_path / 'more.pth')
    config = config_of(NARROW_RESNET)
    assert inspect(config, '--checkpoint', file)[0] == 1
    assert inspect(config, '--checkpoint', file, '--trust-pickle')[0] == 0


def test_nothing_of_mmseg_stands_around_the_report(inspect):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        inspect(DEMO)
    assert not [w for w in seen if 'mmseg' in w.filename]


# --- settings that a run would stumble over -----------------------------------------------------


def test_a_misspelt_setting_is_named_with_the_right_one(inspect, config_of, narrow):
    wrong = dict(type='PretrainedBackbone', checkpoint=narrow, min_covrage=0.5)
    code, output = inspect(config_of({**NARROW_RESNET, 'init_cfg': wrong}))
    told = "PretrainedBackbone has no setting 'min_covrage'. Did you mean min_coverage?"
    assert (code, output) == (1, f'error: {told}\n')


@pytest.mark.parametrize('pretrained', [{}, {'pretrained': True}])
@pytest.mark.parametrize('where', ['init_cfg', 'hook of the part', 'hook of all', '--checkpoint'])
def test_weights_of_timm_itself_are_refused_before_they_are_fetched(
    inspect, config_of, monkeypatch, pretrained, where
):
    monkeypatch.setattr(timm, 'create_model', lambda **_: pytest.fail('timm was asked'))
    ours = {'checkpoint': 'weights.pth'}
    backbone, more, arguments = {'type': 'TIMMBackbone', 'model_name': 'resnet18'}, {}, []
    if where == 'init_cfg':
        backbone['init_cfg'] = dict(type='PretrainedBackbone', **ours)
    elif where == '--checkpoint':
        arguments = ['--checkpoint', 'weights.pth']
    else:
        part = 'backbone' if where == 'hook of the part' else ''
        more['custom_hooks'] = [dict(type='PretrainedBackboneHook', module=part, **ours)]
    config = config_of({**backbone, **pretrained}, **more)
    code, output = inspect(config, *arguments)
    assert code == 1
    assert 'model.backbone is a TIMMBackbone with pretrained=True' in output
    assert 'Say pretrained=False' in output
    if not arguments:
        with pytest.raises(PretrainedWeightsError, match='pretrained=False'):
            prepare(Config.fromfile(config), ('train_dataloader', 'val_dataloader'))
