"""``pspnet inspect``: what a run would load, its table, its exit code."""

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
from tests.helpers.networks import NARROW_RESNET, build, randomized, saved
from tests.helpers.processes import ROOT

R50 = ROOT / 'configs' / 'psp_r50_cityscapes.py'
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


def test_the_report_of_the_demo_is_shown_with_nothing_of_mmseg_around_it(inspect):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        # mmengine makes a number of a hash of decimal digits alone.
        code, output = inspect(DEMO, '--cfg-options', 'model.backbone.init_cfg.sha256=57934424')
    assert code == 0
    assert '[backbone]' in output
    assert 'coverage 100.00%: 240 of 240 tensors' in output
    assert not [w for w in seen if 'mmseg' in w.filename]


def test_a_checkpoint_that_covers_too_little_exits_with_1_and_says_why(inspect, tmp_path):
    resnet50 = saved(randomized(torchvision.models.resnet50()), tmp_path / 'resnet50.pth')
    options = ['model.decode_head.channels=8', 'model.auxiliary_head.channels=8']
    code, output = inspect(R50, '--checkpoint', resnet50, '--cfg-options', *options)
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


def test_class_names_come_from_the_training_dataset(inspect, config_of, tmp_path):
    theirs = randomized(build(**Config.fromfile(config_of(NARROW_RESNET)).model.to_dict()))
    meta = {'dataset_meta': {'classes': ['car', 'moon']}}
    file = saved({'meta': meta, 'state_dict': theirs.state_dict()}, tmp_path / 'weights.pth')
    dataset = dict(type='CityscapesDataset', metainfo=dict(classes=['sky', 'car']))
    repeated = dict(type='RepeatDataset', times=2, dataset=dataset)
    hook = dict(type='PretrainedBackboneHook', checkpoint=file, module='', classes='by_name')
    more = dict(train_dataloader=dict(dataset=repeated), custom_hooks=[hook])
    code, output = inspect(config_of(NARROW_RESNET, **more))
    assert code == 0, output[-4000:]
    assert '1 of 2 classes by name: car' in output


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


@pytest.mark.parametrize(
    ('arguments', 'init_cfg', 'told'),
    [
        (
            ['--module', 'bakbone'],
            None,
            "module='bakbone': EncoderDecoder has no part 'bakbone'. It has",
        ),
        (
            ['--module', 'bakbone', '--checkpoint', 'weights.pth'],
            None,
            "module='bakbone': EncoderDecoder has no part 'bakbone'. It has",
        ),
        (['--checkpoint', ''], None, '--checkpoint is empty'),
        (
            [],
            dict(type='PretrainedBackbone', checkpoint='weights.pth', min_covrage=0.5),
            "PretrainedBackbone has no setting 'min_covrage'. Did you mean min_coverage?\n",
        ),
    ],
)
def test_what_is_misspelt_or_empty_is_named(inspect, config_of, arguments, init_cfg, told):
    code, output = inspect(config_of({**NARROW_RESNET, 'init_cfg': init_cfg}), *arguments)
    assert code == 1
    assert output.startswith(f'error: {told}')


def test_the_hash_of_the_command_line_is_checked_and_that_of_another_file_is_not(
    inspect, config_of, tmp_path
):
    narrow = saved(randomized(build(**NARROW_RESNET)), tmp_path / 'narrow.pth')
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


def test_trust_pickle_is_the_word_for_a_file_that_holds_more_than_data(
    inspect, config_of, tmp_path
):
    content = {'state_dict': build(**NARROW_RESNET).state_dict(), 'lr': fractions.Fraction(1, 2)}
    file = saved(content, tmp_path / 'more.pth')
    config = config_of(NARROW_RESNET)
    assert inspect(config, '--checkpoint', file)[0] == 1
    assert inspect(config, '--checkpoint', file, '--trust-pickle')[0] == 0


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
