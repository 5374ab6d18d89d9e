"""``docs/compat.md`` lists what the plugin changes in other packages, all of it and no more."""

import ast
import fnmatch
import json
import re

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from pspnet_plugin import compat
from tests.helpers.processes import ROOT, run_python
from tests.helpers.stack import LACKS_OPERATORS, is_installed
from tests.helpers.torch_features import VERSION

PACKAGE = ROOT / 'pspnet_plugin'
DOCS = (ROOT / 'docs' / 'compat.md').read_text(encoding='utf-8')
CONDITIONS = {  # as they stand in the table, and whether they hold here
    '': True,
    'with mmcv-lite and MMSegmentation 1.2': LACKS_OPERATORS,
    'with onedl-mmengine': is_installed('onedl-mmengine'),
    'without a GPU': False,  # of `pspnet train` and `test` alone
    'by `pspnet export`': False,
    'by `pspnet train` and `pspnet test`': False,
    'on torch 2.1': VERSION < (2, 2),
    'on torch before 2.6': VERSION < (2, 6),
}
WITH_OPERATORS = """
import sys, types
class Operators(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return len
sys.modules['mmcv._ext'] = Operators('mmcv._ext')
"""


def table(heading):
    """The rows below the header that begins with ``heading``, as lists of cells."""
    lines = iter(DOCS.splitlines())
    next(line for line in lines if line.startswith(f'| {heading} '))
    next(lines)
    for line in lines:
        if not line.startswith('|'):
            return
        yield [cell.strip() for cell in line.strip('|').split('|')]


def quoted(cell):
    return re.findall(r'`([^` ]+)`', cell)


def listed(conditions):
    """The dotted names that the table lists for these conditions, some with an asterisk."""
    return [
        name
        for row in table('File')
        if conditions[''.join(re.findall(r', (.+) only$', row[3]))]
        for name in quoted(row[1])
    ]


def find_patches(*code):
    status, output = run_python('-W', 'ignore', '-m', 'tests.helpers.patches', *code)
    assert status == 0, output[-4000:]
    return json.loads(output.splitlines()[-1])


OF_ANY_KIND = """
import functools, copy, mmengine.hooks, mmengine.registry, mmengine.runner, pspnet_plugin, torch
from pspnet_plugin.utils.text import shortened
torch.save = functools.partial(torch.save, pickle_protocol=2)
torch.nn.Conv2d.forward = functools.wraps(torch.nn.Conv2d.forward)(shortened)
torch.nn.Linear.extra = property(shortened)
mmengine.hooks.EMAHook.before_run = staticmethod(shortened)
mmengine.runner.IterBasedTrainLoop = pspnet_plugin.LayerFreezeHook
mmengine.runner.checkpoint.CheckpointLoader.register_scheme('mine://', shortened)
mmengine.registry.HOOKS.register_module('EMAHook', module=pspnet_plugin.LayerFreezeHook, force=True)
"""


@pytest.fixture(scope='module')
def looked():
    """What is found, and what is found when there are patches of any kind."""
    return find_patches(OF_ANY_KIND)


@pytest.fixture(scope='module')
def found(looked):
    return looked[0]


def unlisted(patched, names):
    return [n for n in patched if not any(fnmatch.fnmatchcase(n, p) for p in names)]


def test_everything_that_is_replaced_stands_in_the_table(found):
    assert unlisted(found['patched'], listed(CONDITIONS)) == []


def test_everything_in_the_table_is_replaced(found):
    names = listed(CONDITIONS)
    assert len(names) > 5
    assert [p for p in names if not fnmatch.filter(found['patched'], p)] == []


def test_what_needs_no_repair_is_left_alone():
    """Where mmcv has its operators, as far as a process can be made to think so.

    The other conditions are those of the installed versions, which the tests above look at.
    """
    repaired = {'with mmcv-lite and MMSegmentation 1.2': False}
    patched = find_patches('', WITH_OPERATORS)[0]['patched']
    assert len(patched) > 5
    assert unlisted(patched, listed(CONDITIONS | repaired)) == []


def test_every_repair_has_a_row_and_every_row_a_file():
    files = {name for row in table('File') for name in quoted(row[0])}
    repairs = {path for path in (PACKAGE / 'compat').glob('*.py') if path.name != '__init__.py'}
    assert {str(path.relative_to(PACKAGE)) for path in repairs} <= files
    assert [name for name in files if not (PACKAGE / name).is_file()] == []


def test_every_repair_says_what_is_wrong_what_is_changed_and_when_it_becomes_unnecessary():
    for path in (PACKAGE / 'compat').glob('*.py'):
        if path.name != '__init__.py':
            said = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
            for part in ('\nWrong: ', '\nChanged', '\nUnnecessary '):
                assert part in said, f'{path.name} lacks {part.strip()!r}'


def test_names_that_are_registered_anew_stand_in_the_table(found):
    names = [quoted(row[0])[0] for row in table('Name')]
    assert sorted(f'mmseg.registry.MODELS.{name}' for name in names) == found['registered']


def test_applying_the_repairs_again_changes_nothing():
    def repaired():
        loader = CheckpointLoader.load_checkpoint.__func__
        return [loader, Config._get_cfg_path, Runner.from_cfg.__func__, Runner.register_hooks]

    before = repaired()
    compat.apply()
    assert repaired() == before


def test_a_patch_of_any_kind_is_found(looked):
    more = looked[1]
    assert more['registered'].count('mmengine.registry.HOOKS.EMAHook') == 1
    for name in (
        'torch.save',
        'torch.nn.modules.conv.Conv2d.forward',
        'torch.nn.modules.linear.Linear.extra',
        'mmengine.hooks.ema_hook.EMAHook.before_run',
        'mmengine.runner.IterBasedTrainLoop',
        'mmengine.runner.checkpoint.CheckpointLoader._schemes',
    ):
        assert name in more['patched']


# --- nothing is changed elsewhere, also not later -----------------------------------------------


def assigned_attributes(tree):
    """Attributes of imported names of other packages that the code sets or deletes."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {(alias.asname or alias.name).split('.')[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and not node.level:
            imported |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
            target = node.value
        elif isinstance(node, ast.Call) and getattr(node.func, 'id', '') in ('setattr', 'delattr'):
            target = node.args[0]
        else:
            continue
        while isinstance(target, ast.Attribute):
            target = target.value
        if isinstance(target, ast.Name) and target.id in imported:
            yield ast.unparse(node)


def test_assignments_to_other_packages_are_seen():
    code = (
        'import torch.nn as nn\nfrom torch import hub\nnn.Conv2d.forward = 1\nsetattr(hub, "x", 1)'
    )
    assert len(list(assigned_attributes(ast.parse(code)))) == 2
    assert not list(assigned_attributes(ast.parse('from . import hub\nhub.x = 1')))


# Which Python documents as to be assigned by a program.
SWITCHES = {'sys.excepthook', 'logging.raiseExceptions'}


def test_nothing_outside_of_compat_changes_another_package():
    changed = {
        str(path.relative_to(PACKAGE)): [
            name
            for name in assigned_attributes(ast.parse(path.read_text()))
            if name not in SWITCHES
        ]
        for path in PACKAGE.rglob('*.py')
        if path.parent.name != 'compat'
    }
    assert {path: names for path, names in changed.items() if names} == {}
