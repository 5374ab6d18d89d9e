"""The timeline that is shown without training is what a run then does."""

from __future__ import annotations

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.reports.preview import PreviewError, as_table, draw, parts_of, preview
from pspnet_plugin.freezing import LayerFreezeHook
from tests.helpers.freezing_runs import Net, loader, under, watch
from tests.helpers.processes import ROOT

HOOK = {
    'freeze': ['backbone.stages[:2]', 'backbone.layer3.1'],
    'schedule': [
        {'at': 3, 'unfreeze': ['backbone.layer2'], 'lr_mult': 0.5, 'warmup': 2},
        {'at': 0.75, 'unfreeze': ['backbone'], 'freeze': ['backbone.stages[:0]']},
    ],
    'stage_lr_decay': 0.7,
}
WRAPPER = {
    'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9},
    'paramwise_cfg': {'custom_keys': {'head': {'lr_mult': 10.0}}},
}
SCHEDULERS = [
    {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'end': 3},
    {'type': 'PolyLR', 'power': 0.9, 'eta_min': 1e-3, 'by_epoch': False, 'begin': 3},
]


class BuiltFrozen(Net):
    def __init__(self):
        super().__init__()
        self.backbone.layer1.requires_grad_(False)


@pytest.fixture(scope='module')
def config():
    MODELS.register_module(name='BuiltFrozenNet', module=BuiltFrozen, force=True)
    return Config(
        {
            'model': {'type': 'BuiltFrozenNet'},
            'custom_hooks': [{'type': 'LayerFreezeHook', **HOOK}],
            'train_cfg': {'by_epoch': False, 'max_iters': 8},
            'optim_wrapper': WRAPPER,
            'param_scheduler': SCHEDULERS,
        }
    )


def test_the_preview_is_what_the_run_does(config, tmp_path):
    shown = preview(config)
    _, run = watch(
        tmp_path,
        LayerFreezeHook(**HOOK),
        model=BuiltFrozen(),
        max_iters=8,
        optim_wrapper=WRAPPER,
        param_scheduler=SCHEDULERS,
    )
    assert shown.iterations == list(range(8))
    for row, names in enumerate(parts_of(Net()).values()):
        for iteration in range(8):
            changed = run.changed[iteration] & set(names)
            rate = shown.rates[row, iteration]
            assert (shown.trainable[row, iteration] > 0) == bool(changed)
            if changed:
                assert rate == max(run.lrs[iteration][name] for name in changed)
            else:
                assert np.isnan(rate)


@pytest.mark.parametrize('drop_last', [False, True])
def test_epochs_are_as_long_as_those_of_the_run(tmp_path, drop_last):
    hook = {'freeze': 'backbone', 'schedule': [{'at': 2, 'unfreeze': 'backbone'}], 'by_epoch': True}
    epochs = {
        'train_dataloader': {**loader(), 'batch_size': 5, 'drop_last': drop_last},
        'train_cfg': {'by_epoch': True, 'max_epochs': 3},
    }
    MODELS.register_module(name='TinyNet', module=Net, force=True)
    rest = {'model': {'type': 'TinyNet'}, 'optim_wrapper': WRAPPER}
    shown = preview(
        Config({**epochs, **rest, 'custom_hooks': [{'type': 'LayerFreezeHook', **hook}]})
    )
    _, run = watch(tmp_path, LayerFreezeHook(**hook), optim_wrapper=WRAPPER, **epochs)
    begin = min(iteration for iteration, names in run.changed.items() if under('backbone', names))
    assert (shown.starts, shown.end) == ([0, begin], len(run.changed))


def test_the_table_has_a_column_for_each_stretch(config):
    lines = [' '.join(line.split()) for line in as_table(preview(config)).splitlines()]
    assert lines[1] == '| part | 0 to 2 | 3 to 5 | 6 to 7 |'
    stem = next(line for line in lines if 'backbone stem' in line)
    assert stem == '| backbone stem | frozen | frozen | frozen |'
    third = next(line for line in lines if 'backbone.stages[2]' in line)
    net = Net()
    norm = sum(p.numel() for p in net.backbone.layer3[1].parameters())
    share = 1 - norm / sum(p.numel() for p in net.backbone.layer3.parameters())
    assert third.count(f'({share:.0%} of it)') == 2


def test_parts_cover_the_model_once():
    parts = parts_of(Net())
    assert list(parts)[:2] == ['backbone stem', 'backbone.stages[0]']
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(name for name, _ in Net().named_parameters())
    assert set(parts['backbone.stages[1]']) == under('backbone.layer2', names)


def test_what_is_frozen_is_grey_in_the_image(config, tmp_path):
    grey, frozen = [], []
    for hook in (HOOK, {}):
        other = Config({**config, 'custom_hooks': [{'type': 'LayerFreezeHook', **hook}]})
        shown = preview(other)
        draw(shown, tmp_path / 'timeline.png')
        with Image.open(tmp_path / 'timeline.png') as image:
            pixels = np.asarray(image.convert('RGB'))
        grey.append((pixels == round(0.85 * 255)).all(axis=2).sum())
        frozen.append(np.isnan(shown.rates).sum())
    assert 0 < frozen[1] < frozen[0]
    assert grey[0] / grey[1] == pytest.approx(frozen[0] / frozen[1], rel=0.1)


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'custom_hooks': []}, 'has 0 LayerFreezeHook'),
        ({'custom_hooks': [{'type': 'LayerFreezeHook'}] * 2}, 'has 2 LayerFreezeHook'),
        ({'custom_hooks': [{'type': 'LayerFreezHook'}]}, 'you mean by LayerFreezHook'),
        ({'custom_hooks': None}, 'has 0 LayerFreezeHook'),
        ({'custom_hooks': ['LayerFreezeHook']}, 'no list of dict'),
        ({'train_cfg': {'max_iters': 0}}, 'how long the run is'),
        ({'train_cfg': None}, 'no train_cfg'),
        ({'train_cfg': {'by_epoch': True, 'max_epochs': 2}}, 'Epochs cannot be counted'),
    ],
)
def test_a_config_that_lacks_something_is_refused(config, changes, told):
    with pytest.raises(PreviewError, match=told):
        preview(Config({**config, **changes}))


@pytest.mark.parametrize('kind', [LayerFreezeHook, 'mmengine.LayerFreezeHook'])
def test_the_hook_may_be_named_by_its_class_or_with_its_scope(config, kind):
    other = Config({**config, 'custom_hooks': [{'type': kind, **HOOK}]})
    assert as_table(preview(other)) == as_table(preview(config))


# --- the command --------------------------------------------------------------------------------

CONFIG = ROOT / 'configs' / 'psp_efflite0_bluemarble.py'


def run_tool(*arguments):
    return main(['freezing', *map(str, arguments)])


def require_one_line(capsys, *arguments, begin='error: ', told):
    assert run_tool(*arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith(begin)
    assert told in message
    assert message.count('\n') == 1


def test_the_tool_prints_and_draws_the_timeline_of_a_config(tmp_path, capsys):
    image = tmp_path / 'timeline.png'
    assert run_tool(CONFIG, '--out', image) == 0
    output = capsys.readouterr().out
    assert '| decode_head ' in output
    assert 'frozen' in output
    assert f'written: {image}' in output
    assert image.is_file()


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['no_such_config.py'], 'no_such_config.py'),
        ([ROOT / 'configs' / 'psp_r18_cityscapes.py'], 'has 0 LayerFreezeHook'),
        ([CONFIG, '--cfg-options', "custom_hooks.0.freeze=['backbon']"], 'Near misses: backbone'),
        ([CONFIG, '--cfg-options', 'model.backbone.type=NoBackbone'], 'NoBackbone'),
        ([CONFIG, '--out', '/proc/x.png'], '/proc/x.png'),
    ],
)
def test_every_error_of_the_tool_is_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    require_one_line(capsys, *arguments, told=told)


@pytest.mark.parametrize(
    ('line', 'told'),
    [
        ("custom_imports = dict(imports=['no_such_package'])", 'no_such_package'),
        ("param_scheduler = [dict(type='NoSuchLR')]", 'NoSuchLR'),
        ("optim_wrapper = dict(type='NoSuchWrapper')", 'NoSuchWrapper'),
        ("model = dict(type='NoSuchSegmentor')", 'NoSuchSegmentor'),
        ('model = (', 'SyntaxError'),
        ("raise ValueError('two\\nlines')", 'two lines'),
    ],
)
def test_an_error_inside_the_config_is_one_line(tmp_path, capsys, line, told):
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {str(CONFIG)!r}\n{line}\n')
    require_one_line(capsys, config, begin=f'error: {config}: ', told=told)


def test_an_option_without_a_value_is_an_error_of_the_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        run_tool(CONFIG, '--cfg-options', 'model.backbone')
    assert ended.value.code == 2
    assert 'takes KEY=VALUE' in capsys.readouterr().err
