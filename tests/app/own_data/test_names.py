"""Names of files, folders and classes that mean something in a config, a table or a terminal."""

from __future__ import annotations

import io
import os
import shlex
import sys

import pytest
from mmengine.config import Config

from pspnet_plugin.app.commands import main
from tests.helpers.folders import make_folders


@pytest.fixture
def here(here):
    make_folders(here)
    return here


def init(*arguments, images='images'):
    return main(['init', images, 'masks', '--out', 'mine', *arguments])


def write_table(*names):
    """A table of three classes, the first of them with these names."""
    names = [*names, 'roof', 'road'][:3]
    with open('classes.txt', 'w', encoding='utf-8') as file:
        file.writelines(f'{name} {number}\n' for number, name in enumerate(names))


# mmengine takes the default of the variable for a regular expression and replaces by it whatever
# that finds: here the whole line.
RUNS = '{{$V:__import__("pathlib").Path("executed").touch()#|.*}}'


@pytest.mark.parametrize(
    'name', [RUNS, "'{{$V:'+str(open('x'))}}", '{{$HOME:x}}', '{{fileDirname}}', '{{_base_.model}}']
)
def test_a_class_that_mmengine_reads_as_a_variable_is_refused_and_runs_nothing(here, capsys, name):
    write_table(name)
    assert init('--classes', 'classes.txt') == 1
    error = capsys.readouterr().err
    assert 'name it without {{' in error
    assert repr(name) in error
    assert not (here / 'mine').exists()
    assert main(['check', 'mine/mine.py']) == 1
    assert not (here / 'executed').exists()


@pytest.mark.parametrize('name', ['{{$HOME:x}}', '{{fileDirname}}', 'a{{ fileBasename }}b'])
@pytest.mark.parametrize('what', ['images', 'masks', 'out', 'suffix'])
def test_folders_and_masks_that_mmengine_reads_as_variables_are_refused(here, capsys, what, name):
    arguments = {'images': 'images', 'masks': 'masks', 'out': 'mine'}
    if what == 'suffix':
        for path in (here / 'masks').iterdir():
            path.rename(path.with_name(f'{path.stem}{name}.png'))
    else:
        if what != 'out':
            os.rename(what, name)
        arguments[what] = name
    code = main(['init', arguments['images'], arguments['masks'], '--out', arguments['out']])
    assert code == 1
    assert 'name it without {{' in capsys.readouterr().err


@pytest.mark.parametrize(
    'name', ['it\'s"a"\\n', '道路', '[/x]', '[red]a', ':smile:', '$x_1$', '%s{}', '$title']
)
def test_other_names_are_shown_and_read_from_the_config_as_they_are(here, capsys, name):
    write_table(name)
    folder = name.replace('/', '')
    os.rename('images', folder)
    assert init('--classes', 'classes.txt', images=folder) == 0
    assert f' {name} ' in capsys.readouterr().out
    assert main(['check', 'mine/mine.py']) == 0
    assert f' {name} ' in capsys.readouterr().out
    cfg = Config.fromfile('mine/mine.py')
    assert cfg.classes[0] == name
    assert os.path.basename(cfg.images) == folder


def test_control_characters_of_names_do_not_reach_a_terminal(here, capsys):
    name = 'a\x1b]0;b\x9bm'
    write_table(name)
    assert init('--classes', 'classes.txt') == 0
    assert main(['check', 'mine/mine.py']) == 0
    assert main(['check', f'{name}.py']) == 1
    captured = capsys.readouterr()
    assert captured.out.count(r' a\x1b]0;b\x9bm ') == 2
    assert r'a\x1b]0;b\x9bm.py' in captured.err
    assert {'\x1b', '\x9b'}.isdisjoint(captured.out + captured.err)


@pytest.mark.parametrize('name', [' 1', '1 ', '1\u3000', '1\n2', 'a\rb', '\r1', b'\xff1', 'in/ 1'])
def test_images_that_a_list_cannot_name_are_refused(here, capsys, name):
    name = os.fsdecode(name)
    for folder in ('images', 'masks'):
        (here / folder / name).parent.mkdir(exist_ok=True)
        os.rename(f'{folder}/1.png', f'{folder}/{name}.png')
    code = init()
    if name == 'in/ 1':  # whose blank is at no end
        assert code == 0
        return
    assert code == 1
    error = capsys.readouterr().err
    assert f'images/{name}.png'.encode('unicode_escape', 'backslashreplace').decode() in error
    assert error.count('\n') == 1
    assert 'rename' in error
    assert not (here / 'mine').exists()


def test_a_config_that_is_read_as_something_else_is_removed(here, capsys, monkeypatch):
    """Whatever else may happen to a text between here and mmengine."""
    monkeypatch.setattr(
        'pspnet_plugin.app.own_data.project.config_text', lambda *_: "classes = ('a', 'b')\n"
    )
    assert init() == 1
    assert 'cannot be written so that it is read as it is meant' in capsys.readouterr().err
    assert not (here / 'mine' / 'mine.py').exists()


@pytest.mark.parametrize('prefix', ['', 'mask_'])
def test_names_that_were_paired_without_being_equal_are_told(here, capsys, prefix):
    for path in (here / 'masks').iterdir():
        path.rename(path.with_name(prefix + path.name))
    assert init() == 0
    told = 'paired, such as images/0.png and masks/mask_0.png' in capsys.readouterr().out
    assert told == bool(prefix)


def test_folds_are_a_next_command_where_their_lists_are_written(here, capsys):
    assert main(['init', 'images', 'masks', '--out', 'mine', '--folds', '3']) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ['pspnet', 'folds', 'mine/mine.py']


def test_the_next_commands_are_quoted_for_the_shell(here, capsys):
    assert main(['init', 'images', 'masks', '--out', "it's; touch x"]) == 0
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith('next:')]
    assert shlex.split(line)[1:] == ['pspnet', 'check', "it's; touch x/it's; touch x.py"]


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'gb2312'])
def test_tables_are_printed_in_terminals_of_every_encoding(here, monkeypatch, encoding):
    write_table('道路', 'ñandú', '🌳')
    content = io.BytesIO()
    with io.TextIOWrapper(content, encoding) as terminal:
        monkeypatch.setattr(sys, 'stdout', terminal)
        assert init('--classes', 'classes.txt') == 0
        assert main(['check', 'mine/mine.py']) == 0
        terminal.flush()
        shown = content.getvalue().decode(encoding)
        monkeypatch.undo()
    assert ('道路' in shown) == (encoding == 'gb2312')
    assert '\\u9053' in shown or encoding == 'gb2312'
    assert '\\u25' not in shown  # borders


@pytest.mark.parametrize('iterations', ['0', '-3', 'many'])
def test_a_number_of_iterations_that_trains_nothing_is_refused(here, capsys, iterations):
    with pytest.raises(SystemExit):
        init('--iterations', iterations)
    assert 'argument --iterations: ' in capsys.readouterr().err
