"""The console command: what it lists, what it passes on, and what it prints."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config

from pspnet_plugin import config_path
from pspnet_plugin.app.commands import COMMANDS, main
from tests.helpers.processes import run_python
from tests.helpers.street_scenes import NARROW_MODEL, make_street_scenes, small_run_options

R50 = 'psp_r50_cityscapes'


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
    written = tmp_path / 'mine.py'
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


@pytest.mark.parametrize('name', ['config', 'train', 'test', 'inspect', 'freezing'])
def test_a_config_that_does_not_exist_is_one_line_with_the_near_ones(name, capsys):
    assert main([name, 'psp_r50_cityscape']) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert error.count('\n') == 1
    assert f'Did you mean {R50}.py' in error


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
