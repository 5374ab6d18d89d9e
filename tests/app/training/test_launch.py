"""What the commands add around the stock tools, and configs for a GPU without one."""

import copy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from torch._utils import ExceptionWrapper

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.training import launch
from pspnet_plugin.compat import runner as callbacks
from pspnet_plugin.errors import ImageError, PspnetPluginError
from pspnet_plugin.finite_loss import StopAtNonFiniteLossHook
from pspnet_plugin.speed.cpu_amp import bfloat16_on_this_cpu
from pspnet_plugin.transforms.check_labels import LabelError
from tests.helpers.folders import make_folders
from tests.helpers.processes import ROOT, run_copy
from tests.helpers.street_scenes import (
    NARROW_MODEL,
    NARROW_OWN_DATA,
    cityscapes_at,
    small_run_options,
)

CONFIG = ROOT / 'configs' / 'psp_r50_cityscapes.py'


@pytest.mark.parametrize(
    'told',
    [
        LabelError('aachen_0.png holds the label values 33: see the docs'),
        ImageError('aachen_0.png', 'cannot be loaded (UnidentifiedImageError: none)'),
    ],
)
def test_error_from_a_data_loader_worker_is_told_without_its_traceback(told):
    try:
        raise told
    except type(told):
        handed_over = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(type(told), match='Original Traceback') as raised:
        handed_over.reraise()
    assert launch.plain_message(raised.value) == launch.plain_message(told) == str(told)


@pytest.mark.parametrize(
    ('folder', 'spoil'),
    [
        ('images', lambda content: b'no image'),
        ('images', lambda content: b''),
        ('masks', lambda content: content[: len(content) // 2]),
        ('masks', lambda content: b'no image'),
    ],
)
def test_a_file_that_cannot_be_read_is_named_by_the_run(here, folder, spoil):
    make_folders(here)
    assert main(['init', 'images', 'masks', '--out', 'mine', '--iterations', '2']) == 0
    for path in Path(folder).iterdir():
        path.write_bytes(spoil(path.read_bytes()))
    words = [f'{key}={value}' for key, value in NARROW_OWN_DATA.items()]
    command = ['train', 'mine/mine.py', '--cfg-options', *words]
    code, printed = run_copy(main, command, folder=here)
    assert code == 1, printed[-4000:]
    error = printed.rpartition('error: ' + str(here / folder))[2]
    assert 'png: cannot be loaded (' in error
    assert error.endswith('pspnet check names all such files\n')
    assert error.count('\n') == 1


def test_a_run_in_the_folder_of_its_config_leaves_the_config_as_it_was_written(here):
    make_folders(here)
    assert main(['init', 'images', 'masks', '--out', 'mine', '--iterations', '2']) == 0
    written = Path('mine/mine.py').read_text()
    words = ['--work-dir', 'mine', '--cfg-options']
    words += [f'{key}={value}' for key, value in NARROW_OWN_DATA.items()]
    command = ['train', 'mine/mine.py', *words, 'train_cfg.max_iters=1']
    code, printed = run_copy(main, command, folder=here)
    assert code == 0, printed[-4000:]
    assert Path('mine/mine.py').read_text() == written
    (copied,) = [path for path in Path('mine').glob('*.py') if path.name != 'mine.py']
    assert Config.fromfile(copied).train_cfg.max_iters == 1
    assert main(['test', 'mine/mine.py', 'mine/iter_1.pth', *words]) == 0
    assert Path('mine/mine.py').read_text() == written


def test_datasets_that_mmengine_does_not_join_are_one_line(here, capsys):
    make_folders(here)
    assert main(['init', 'images', 'masks', '--out', 'mine', '--iterations', '2']) == 0
    with open('mine/mine.py', 'a') as file:
        file.write(
            "one = train_dataloader['dataset']\n"
            "other = {**one, 'metainfo': dict(classes=('x', 'y', 'z'))}\n"
            "train_dataloader['dataset'] = dict(type='ConcatDataset', datasets=[one, other])\n"
        )
    words = [f'{key}={value}' for key, value in NARROW_OWN_DATA.items()]
    assert main(['train', 'mine/mine.py', '--cfg-options', *words]) == 1
    error = capsys.readouterr().err
    assert 'error: mine/mine.py: ValueError: The meta information of the 2-th dataset' in error
    assert error.count('\n') == 1


@pytest.mark.parametrize('command', [['train'], ['test', 'x.pth']])
@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('model = dict(', "SyntaxError: '(' was never closed"),
        ('model = dict(type=nothing)', "NameError: name 'nothing' is not defined"),
        ('import nothing\nmodel = nothing.model', "No module named 'nothing'"),
        ('model = dict(decode_head=3)', "TypeError: 'int' object is not iterable"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_line(here, capsys, command, text, told):
    Path('x.pth').touch()
    Path('mine.py').write_text(f'{text}\n')
    assert main([command[0], 'mine.py', *command[1:]]) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: mine.py: ')
    assert told in error
    assert error.count('\n') == 1


@pytest.mark.parametrize(
    ('option', 'told'),
    [
        ('model.backbone.depth=50', 'model.decode_head.psp_modules.0.1.conv does not fit'),
        ('model.backbone.in_channels=4', 'model.backbone.stem.0 does not fit what it gets'),
        ('model.auxiliary_head.in_index=3', 'model.auxiliary_head.convs.0.conv does not fit'),
        ('model.decode_head.in_index=4', 'model.decode_head does not fit what it gets'),
    ],
)
def test_parts_of_a_model_that_do_not_fit_are_named(street_scenes, here, option, told):
    options = [*small_run_options(street_scenes, 1, 1), *NARROW_MODEL, option]
    code, printed = run_copy(main, ['train', 'psp_r50_cityscapes', *options], folder=here)
    assert code == 1
    assert f'error: psp_r50_cityscapes: {told}' in printed


RESTARTS = (
    "[dict(type='CosineRestartLR', periods=[1], restart_weights=[1, 1], eta_min=0, by_epoch=False)]"
)


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        (f'param_scheduler = {RESTARTS}', 'same length. (CosineRestartLR: periods=[1], restart_w'),
        (
            "param_scheduler = [dict(type='LinearLR', begin=9, end=5, by_epoch=False)]",
            'begin=9, end=5',
        ),
        ('param_scheduler = 5', '`param_scheduler` should be'),
        ("default_hooks = dict(checkpoint=dict(rule='best'))", 'got best'),
        ("custom_hooks = [dict(type='EMAHook', begin_iter=-1)]", '(EMAHook: begin_iter=-1)'),
        ("custom_hooks = [dict(type='EMAHook', begin_iter=100)]", 'begin_iter: 100'),
        ("custom_hooks = [dict(type='EMAHook', priority='SOMETIMES')]", "'SOMETIMES'"),
        ('optim_wrapper = dict(accumulative_counts=0)', '(OptimWrapper: '),
        ("log_level = 'LOUD'", "KeyError: 'LOUD' (MMLogger)"),
        ("train_dataloader = dict(sampler=dict(type='RandomSampler'))", 'RandomSampler'),
        (
            'optim_wrapper = dict(clip_grad=dict(_delete_=True, max_norms=1))',
            "'max_norms' (OptimWrapper)",
        ),
        ("model = dict(test_cfg=dict(mode='hole'))", 'but got hole. (LabelMapEncoderDecoder)'),
    ],
)
def test_what_a_part_of_a_run_says_of_its_settings_is_one_line(street_scenes, here, text, told):
    Path('mine.py').write_text(f'_base_ = {str(CONFIG)!r}\n{text}\n')
    options = [*small_run_options(street_scenes, 1, 1), *NARROW_MODEL]
    code, printed = run_copy(main, ['train', 'mine.py', *options], folder=here)
    assert code == 1
    error = printed.rpartition('error: mine.py: ')[2]
    assert told in error
    assert error.count('\n') == 1


def test_an_error_of_a_part_of_ones_own_keeps_its_traceback(street_scenes, here):
    Path('of_mine.py').write_text(
        'from mmengine.hooks import Hook\n'
        'from mmengine.registry import HOOKS\n'
        '@HOOKS.register_module(force=True)\n'
        'class OfMine(Hook):\n'
        '    def __init__(self):\n'
        '        assert not self\n'
    )
    hook = "custom_hooks = [dict(type='OfMine')]\ncustom_imports = dict(imports=['of_mine'])"
    Path('mine.py').write_text(f'_base_ = {str(CONFIG)!r}\n{hook}\n')
    options = [*small_run_options(street_scenes, 1, 1), *NARROW_MODEL]
    with pytest.raises(AssertionError):
        main(['train', 'mine.py', *options])


@pytest.mark.parametrize('name', ['train.py', 'test.py'])
@pytest.mark.parametrize('ended_by', [SystemExit(0), KeyboardInterrupt(), ValueError('no')])
def test_stock_tool_that_has_ended_leaves_no_check_behind(name, ended_by, monkeypatch):
    lists = ('before_build', 'logger_built', 'added_hooks')
    before, argv, during = [list(getattr(callbacks, one)) for one in lists], list(sys.argv), []

    def run(path):
        during.extend(list(getattr(callbacks, one)) for one in lists)
        raise ended_by

    monkeypatch.setattr(launch.runpy, 'run_path', run)
    # An error before the config is looked at is one of the config.
    raised = PspnetPluginError if isinstance(ended_by, ValueError) else type(ended_by)
    with pytest.raises(raised):
        launch.run_stock_tool(name, ['--help'])
    assert all(len(now) > len(then) for now, then in zip(during, before))
    assert [list(getattr(callbacks, one)) for one in lists] == before
    assert sys.argv == argv


def test_hook_that_somebody_gave_every_run_is_still_given_after_the_command(monkeypatch):
    monkeypatch.setattr(callbacks, 'added_hooks', [StopAtNonFiniteLossHook])
    with pytest.raises(SystemExit):
        launch.run_stock_tool('train.py', ['--help'])
    assert callbacks.added_hooks == [StopAtNonFiniteLossHook]


@pytest.fixture
def cityscapes(street_scenes):
    return cityscapes_at(street_scenes)


def test_without_a_gpu_sync_batch_norm_becomes_batch_norm_and_other_norms_stay(cityscapes, capsys):
    launch.fit_to_cpu(cityscapes)
    assert "'SyncBN'" not in repr(cityscapes.model)
    assert capsys.readouterr().out.count('SyncBN') == 1
    before = copy.deepcopy(cityscapes.model)
    launch.fit_to_cpu(cityscapes)
    assert cityscapes.model == before
    assert not capsys.readouterr().out


@pytest.mark.parametrize('chosen', [None, dict(type='MMDistributedDataParallel', a=1)])
def test_distributed_run_without_a_gpu_uses_gloo_and_the_wrapper_of_the_user(cityscapes, chosen):
    cityscapes.launcher, cityscapes.model_wrapper_cfg = 'pytorch', chosen
    launch.fit_to_cpu(cityscapes)
    assert cityscapes.env_cfg.dist_cfg.backend == 'gloo'
    wrapper = cityscapes.model_wrapper_cfg
    assert wrapper == chosen if chosen else wrapper.device_ids is None


def test_mixed_precision_without_a_gpu_is_bfloat16_with_one_log_line(cityscapes, capsys):
    cityscapes.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=None)
    launch.fit_to_cpu(cityscapes)
    (line,) = [n for n in capsys.readouterr().out.splitlines() if 'bfloat16' in n]
    assert 'bfloat16, without a loss scale' in line
    assert line.endswith(bfloat16_on_this_cpu())
    assert cityscapes.optim_wrapper.type == 'CpuAmpOptimWrapper'
    assert set(cityscapes.optim_wrapper) == {'type', 'optimizer', 'clip_grad'}
