"""The console command: what it lists, what it passes on, and what it prints."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time

import pytest
from mmengine.config import Config

from pspnet_plugin import config_path
from pspnet_plugin.app.commands import COMMANDS, main
from tests.helpers.exports import small_config, write_checkpoint
from tests.helpers.folders import make_folders
from tests.helpers.processes import run_python, start_python
from tests.helpers.street_scenes import NARROW_MODEL, make_street_scenes, small_run_options

R50 = 'psp_r50_cityscapes'
# What pip installs as the command.
SCRIPT = 'import sys\nfrom pspnet_plugin.app.commands import main\nsys.exit(main())\n'


@pytest.fixture(scope='module')
def project(street_scenes, tmp_path_factory):
    """A folder with the command, a config, its checkpoint, a file, and a config of data alone."""
    folder = tmp_path_factory.mktemp('a project')
    config = small_config(data_root=street_scenes)
    config.dump(folder / 'config.py')
    write_checkpoint(config, folder / 'weights.pth')
    (folder / 'pspnet').write_text(SCRIPT)
    (folder / 'file').touch()
    (folder / 'folder').mkdir()
    (folder / 'photo.png').touch()
    (folder / 'data.py').write_text('data_root = "data"\n')
    return folder


@pytest.fixture
def here(project, monkeypatch):
    monkeypatch.chdir(project)
    return project


def error_of(capsys, *words: object) -> str:
    """The only line that a command prints when it fails, behind what it says first."""
    assert main([*map(str, words)]) == 1
    printed = capsys.readouterr().err
    assert printed.count('error: ') == 1
    error = printed[printed.index('error: ') :]
    assert error.count('\n') == 1
    return error


def test_the_module_is_the_command_and_names_every_sub_command():
    code, output = run_python('-m', 'pspnet_plugin', '--help')
    assert code == 0
    assert [name for name in COMMANDS if f'\n    {name}' not in output] == []


@pytest.mark.parametrize('name', COMMANDS)
def test_every_sub_command_has_a_help_of_its_own(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, '--help'])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: pspnet {name} ')


def test_configs_are_listed_printed_and_written_as_one_file_but_not_over_another(tmp_path, capsys):
    assert main(['config']) == 0
    assert f'{R50}.py' in capsys.readouterr().out.splitlines()
    assert main(['config', R50]) == 0
    printed = capsys.readouterr().out
    written = tmp_path / 'new' / 'mine.py'
    assert main(['config', R50, '--out', str(written)]) == 0
    assert written.read_text() == printed
    assert '_base_' not in printed
    stock = Config.fromfile(config_path(f'{R50}.py'))
    assert json.loads(json.dumps(Config.fromfile(written).to_dict())) == json.loads(
        json.dumps(stock.to_dict())
    )
    written.write_text('mine')
    assert main(['config', R50, '--out', str(written)]) == 1
    assert 'is there already' in capsys.readouterr().err
    assert written.read_text() == 'mine'


@pytest.mark.parametrize(('name', 'size'), [('train', 15000), ('config', 1000)])
def test_a_full_disk_is_one_line_without_tracebacks(here, street_scenes, capfd, name, size):
    small = [*small_run_options(street_scenes, 1, 1), *NARROW_MODEL]
    words = {'train': ['--work-dir', 'full', *small], 'config': ['--out', 'full.py']}[name]
    resource = pytest.importorskip('resource')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # of each file, in bytes
    try:
        assert main([name, R50, *words]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capfd.readouterr().err
    assert 'File too large' in error.splitlines()[-1]
    assert 'Traceback' not in error
    assert not (here / 'full.py').exists()


@pytest.mark.parametrize('name', ['config', 'train', 'test', 'inspect', 'freezing'])
def test_a_config_that_does_not_exist_is_one_line_with_the_near_ones(name, capsys):
    assert f'Did you mean {R50}.py' in error_of(capsys, name, 'psp_r50_cityscape')


@pytest.mark.parametrize('option', ['--help', '-h', '--version'])
@pytest.mark.parametrize('command', [['-m', 'pspnet_plugin'], ['pspnet']], ids=['module', 'script'])
def test_help_and_version_do_not_wait_for_torch(here, command, option):
    code, output = run_python('-X', 'importtime', *command, option, cwd=here)
    assert code == 0, output
    imported = {line.rpartition('|')[2].strip() for line in output.splitlines()}
    assert 'pspnet_plugin.app.commands' in imported
    assert not imported & {'torch', 'mmengine', 'numpy', 'rich'}


def test_the_help_of_sub_commands_and_a_look_at_images_do_not_wait_for_torch(tmp_path):
    make_folders(tmp_path, mask_values=(3, 3, 3))
    (tmp_path / 'pspnet').write_text(
        'import contextlib, sys\n'
        'from pspnet_plugin.app.commands import COMMANDS, main\n'
        "for name in sorted(COMMANDS.keys() - {'benchmark'}):\n"
        "    for option in ('--help', *([] if name in ('train', 'test') else ['--nix'])):\n"
        '        with contextlib.suppress(SystemExit):\n'
        '            main([name, option])\n'
        "for name in ('train', 'test', 'check'):\n"
        "    assert main([name, 'nix.py']) == 1\n"
        "assert main(['init', 'images', 'masks', '--out', 'new']) == 1\n"
        "print('imported:', {'torch', 'mmcv', 'mmseg'} & sys.modules.keys())\n"
    )
    code, output = run_python('pspnet', cwd=tmp_path)
    assert code == 0, output
    assert 'one class only, 3' in output
    assert output.splitlines()[-1] == 'imported: set()'


@pytest.mark.parametrize(('typed', 'meant'), [('int', 'init'), ('trian', 'train')])
def test_a_command_that_does_not_exist_is_told_with_the_near_ones(typed, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        main([typed, 'images', 'masks'])
    assert ended.value.code == 2
    assert f'Did you mean {meant}' in capsys.readouterr().err


FILES = 'config.py', 'weights.pth'
WITHOUT_TEST = 'test_dataloader=None', 'test_cfg=None', 'test_evaluator=None'
TO_CONFIG = 'config', 'inspect', 'freezing', 'train', 'check'


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        *(((name, 'data.py'), 'data.py has no model') for name in TO_CONFIG[1:]),
        (('predict', 'data.py', 'weights.pth', 'x', '--out', 'y'), 'data.py has no model'),
        (('export', 'data.py', 'weights.pth', '--out', 'x.onnx'), 'data.py has no model'),
        (('test', 'data.py', 'weights.pth'), 'data.py has no model'),
        *(((name, 'weights.pth'), 'weights.pth is no config') for name in TO_CONFIG),
        (('test', 'weights.pth', 'config.py'), 'The config comes first'),
        (('predict', 'weights.pth', 'config.py', 'x', '--out', 'y'), 'The config comes first'),
        (('export', 'weights.pth', 'config.py', '--out', 'x.onnx'), 'The config comes first'),
        (
            ('test', 'config.py', 'weight.pth'),
            'weight.pth does not exist. Did you mean weights.pth',
        ),
        (('train', 'config.py', '--cfg-options', 'load_from=gone.pth'), 'gone.pth does not exist'),
        (('predict', 'config.py', 'gone.pth', 'nowhere', '--out', 'y'), 'match of nowhere'),
        # What mmengine cannot build.
        (('train', 'config.py', '--cfg-options', 'model.neck.type=Nix'), 'Nix is not in the'),
        (('train', 'config.py', '--cfg-options', 'model.decode_head.nix=1'), "argument 'nix'"),
        (('test', *FILES, '--cfg-options', 'test_cfg=None'), 'test_cfg=None'),
        (('test', *FILES, '--cfg-options', *WITHOUT_TEST), '`test_dataloader`'),
        (('train', 'config.py', '--device', 'cuda'), 'CUDA_VISIBLE_DEVICES='),
        (('test', *FILES, '--device=cpu'), 'CUDA_VISIBLE_DEVICES='),
        (('test', 'config.py', 'folder'), 'The checkpoint folder is a folder'),
        (('train', 'config.py', '--cfg-options', 'load_from=folder'), 'is a folder: name a file'),
        # What cannot be written.
        (('train', 'config.py', '--work-dir', 'file/run'), 'file/run: Not a directory'),
        (('test', *FILES, '--work-dir', 'file/run'), 'file/run: Not a directory'),
        (('export', *FILES, '--out', 'file/x.onnx'), 'file/x.onnx: Not a directory'),
        (('check', 'config.py', '--out', 'file/x.png'), 'x.png: Not a directory'),
        (('check', 'config.py', '--out', 'grid'), '--out grid: is a picture'),
        (('check', 'config.py', '--out', 'photo.png'), 'photo.png: is there already, and not'),
        (('report', *FILES, '--out', 'photo.png'), 'photo.png: is there already, and not'),
        (('config', 'config.py', '--out', 'file/x.py'), 'file/x.py: Not a directory'),
        (('predict', *FILES, 'file', '--out', 'file/x'), 'x cannot be written: Not a'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, tuple) else '',
)
def test_what_cannot_be_done_is_one_line(here, words, told, capsys):
    assert told in error_of(capsys, *words)


def test_a_test_that_cannot_begin_leaves_no_folder(here, capsys):
    words = ['test', *FILES, '--work-dir', 'new/run', '--cfg-options', 'test_cfg=None']
    assert 'test_cfg=None' in error_of(capsys, *words)
    assert not (here / 'new').exists()


def test_a_command_finds_the_modules_of_the_current_folder_and_the_plugin_in_them(here):
    (here / 'my_hooks.py').write_text(
        'from pspnet_plugin import LayerFreezeHook, init_model\n'
        'from mmengine.registry import HOOKS\n'
        '@HOOKS.register_module()\n'
        'class MyHook(LayerFreezeHook): pass\n'
    )
    (here / 'mine.py').write_text(
        "_base_ = 'config.py'\n"
        "custom_imports = dict(imports=['my_hooks'])\n"
        "custom_hooks = [dict(type='LayerFreezeHook', freeze=['backbone'])]\n"
    )
    code, output = run_python('pspnet', 'freezing', 'mine.py', cwd=here)
    assert code == 0, output


def after_ctrl_c(process) -> list[str]:
    """What a command prints when Ctrl-C reaches it and its workers, as in a terminal."""
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 130, rest
    return [line for line in rest.splitlines() if ' - INFO - ' not in line]


def test_a_run_has_its_folder_alone_and_ctrl_c_is_one_line_with_how_to_go_on(
    here, street_scenes, capsys
):
    small = [*small_run_options(street_scenes, 10000, 10000), *NARROW_MODEL]
    words = ['train', R50, '--work-dir', 'run', *small, 'train_dataloader.num_workers=2']
    process = start_python('pspnet', *words, cwd=here, start_new_session=True)
    assert any('Iter(train)' in line for line in process.stdout)
    assert 'Another run writes to run: ' in error_of(capsys, *words)
    assert after_ctrl_c(process) == [
        'stopped. The same command with --resume goes on from the last checkpoint.'
    ]


@pytest.mark.parametrize(
    ('words', 'seconds'), [(['train', R50], 1), (['export', *FILES, '--out', 'never.onnx'], None)]
)
def test_ctrl_c_while_a_command_begins_is_one_line(here, words, seconds):
    process = start_python('pspnet', *words, cwd=here, start_new_session=True)
    if seconds:
        time.sleep(seconds)  # it imports
    else:
        assert any('a minute or more' in line for line in process.stdout)
    *warnings, line = after_ctrl_c(process)  # those of the packages that it imports
    assert line.startswith('stopped. The same command')
    assert not any('Traceback' in warning for warning in warnings)
    assert not (here / 'never.onnx').exists()


def test_long_log_entries_stand_in_the_log_file_alone(tmp_path):
    options = [*small_run_options(make_street_scenes(tmp_path), 1, 1), *NARROW_MODEL]
    command = ['-m', 'pspnet_plugin', 'train', R50, '--work-dir', tmp_path / 'run', *options]
    code, output = run_python(*command)
    assert code == 0, output
    (log,) = (tmp_path / 'run').glob('*/*.log')
    for long in ('sys.platform', 'default_hooks = dict(', 'before_run:'):
        assert long in log.read_text()
        assert long not in output
    assert 'Iter(train) [1/1]' in output
    for warning in ('deprecated', 'The draw is False', 'prefix is not set', 'requires_grad=True'):
        assert warning not in output
    files = f'{R50} {shlex.quote(str(tmp_path / "run" / "best_mIoU_iter_1.pth"))}'
    test, report, predict = output.splitlines()[-3:]
    assert test == f'next:    pspnet test {files}'
    assert report.strip() == f'pspnet report {files} --out report.html'
    assert predict.strip() == f'pspnet predict {files} IMAGES --out predictions'
