"""Options of the command line that change a config after it was computed."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from pspnet_plugin.app.commands import main
from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.utils.config_files import read_config
from tests.helpers.folders import make_folders

COMPUTED = 'what follows from {} was computed before'
UNKNOWN = 'nobody reads {}.'


@pytest.fixture
def mine(tmp_path, monkeypatch, capsys):
    """The config that ``pspnet init`` writes."""
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path)
    assert main(['init', 'images', 'masks', '--out', 'mine']) == 0
    capsys.readouterr()
    return 'mine/mine.py'


@pytest.mark.parametrize(
    ('command', 'option', 'told'),
    [
        *[
            ('check', f'{name}=1', COMPUTED.format(name))
            for name in ('iterations', 'pretrained', 'class_weights', 'images', 'crop', 'loss')
        ],
        ('check', 'train_pipeline.1.x=1', COMPUTED.format('train_pipeline')),
        ('train', 'itertions=10', UNKNOWN.format('itertions')),
        ('inspect', 'train_cgf.max_iters=10', 'nobody reads train_cgf. Did you mean train_cfg'),
        ('test', 'data_prepocessor.size=3', UNKNOWN.format('data_prepocessor')),
    ],
)
def test_an_option_that_changes_nothing_is_refused(mine, capsys, command, option, told):
    checkpoint = ['x.pth'] if command == 'test' else []
    assert main([command, mine, *checkpoint, '--cfg-options', option]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f'error: --cfg-options {option.partition("=")[0]} would change nothing')
    assert told in error
    assert error.count('\n') == 1


@pytest.mark.parametrize('command', ['check', 'train', 'inspect'])
@pytest.mark.parametrize(
    ('option', 'told'),
    [
        (
            "optim_wrapper.optimizer=dict(type='AdamW',lr=1e-4)",
            'no dict: set optim_wrapper.opt',
        ),
        (
            'optim_wrapper.clip_grad="{\'max_norm\': 1}"',
            'no dict: set optim_wrapper.clip_grad.',
        ),
        ("custom_hooks=[dict(type='EMAHook')]", 'no dict: set custom_hooks.'),
        ('test_pipeline', 'takes KEY=VALUE'),
        ('train_dataloader.dataset.pipeline.4.crop_size=[(32,32]', 'takes KEY=VALUE'),
    ],
)
def test_a_value_that_mmengine_reads_as_another_is_refused(mine, capsys, command, option, told):
    with pytest.raises(SystemExit):
        main([command, mine, '--cfg-options', option])
    error = capsys.readouterr().err
    assert 'error: --cfg-options ' in error
    assert told in error


@pytest.mark.parametrize(
    'option', ['optimizer.lr', 'crop_size', 'norm_cfg.type', 'data_preprocessor.size', 'data_root']
)
def test_variables_of_stock_configs_are_refused_too(option):
    name = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    with pytest.raises(PspnetPluginError, match=rf'--cfg-options {option} would change nothing'):
        read_config(name, {option: 1})


@pytest.mark.parametrize(
    'option',
    [
        *['train_cfg.max_iters', 'randomness.seed', 'work_dir', 'find_unused_parameters'],
        *['param_scheduler.0.end', 'test_pipeline.1.keep_ratio', 'val_evaluator.prefix', 'own'],
    ],
)
def test_what_mmengine_or_somebody_elses_hook_reads_is_changed(tmp_path, option):
    path = tmp_path / 'mine.py'
    path.write_text(
        "_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'\n"
        'own = 3  # own is read by a hook\n'
    )
    cfg = read_config(path, {option: 7})
    for key in option.split('.'):
        cfg = cfg[int(key) if key.isdecimal() else key]
    assert cfg == 7


def test_a_config_without_a_text_takes_any_option():
    assert read_config(Config({'own': {'x': 1}}), {'own.x': 2}, with_model=False).own.x == 2
