"""A wheel of the plugin carries its configs and tools, and mmengine finds them in it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from pspnet_plugin.app.training import stock_tools
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import NARROW_MODEL, small_run_options


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel that is built from a copy of the sources, so that the working tree stays clean."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'MANIFEST.in'):
        shutil.copy(ROOT / name, source)
    for name in ('pspnet_plugin', 'configs', 'examples', 'tools'):
        ignored = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    options = ['--no-deps', '--no-build-isolation', '--wheel-dir', folder]
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', *options, source], check=True)
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
    """Python of a fresh environment with the wheel, and all else from the environment of the tests.

    An editable installation of the plugin works through a .pth file, which is not read from there.
    Neither is that of setuptools, by which Python 3.12 and later have the distutils that mmengine
    imports.
    """
    folder = tmp_path_factory.mktemp('environment')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    paths = {'base': str(folder), 'platbase': str(folder)}
    site_packages = sysconfig.get_path('purelib', vars=paths)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    with open(f'{site_packages}/dependencies.pth', 'w') as pth:
        pth.write(sysconfig.get_path('purelib') + '\n')
        pth.write('import _distutils_hack; _distutils_hack.add_shim()\n')
    return folder


@pytest.fixture
def run_installed(environment, tmp_path):
    """Runs the Python of the environment in ``tmp_path``, and returns what it printed."""
    variables = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}

    def run(*arguments):
        done = subprocess.run(
            [environment / 'bin' / 'python', *map(str, arguments)],
            cwd=tmp_path,
            env={**variables, 'CUDA_VISIBLE_DEVICES': ''},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return run


def test_wheel_carries_every_config_example_and_tool(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    configs = [*(ROOT / 'configs').rglob('*.py'), *(ROOT / 'configs').rglob('*.txt')]
    tools = [*(ROOT / 'tools').rglob('*.py'), *(ROOT / 'tools').glob('*.sh')]
    tools = [path for path in tools if 'analysis' not in path.parts]
    examples = list((ROOT / 'examples').glob('*.py'))
    assert len(configs) > 10
    assert len(tools) > 5
    assert examples
    for path in [*configs, *examples, *tools]:
        assert f'pspnet_plugin/.mim/{path.relative_to(ROOT).as_posix()}' in packed


def test_wheel_carries_no_script_of_the_documents_own_tables(wheel):
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if 'analysis' in name]


def test_wheel_names_no_distribution_of_mmcv(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('METADATA'))
        metadata = archive.read(name).decode()
    requirements = [line for line in metadata.splitlines() if line.startswith('Requires-Dist')]
    assert any('mmsegmentation' in line for line in requirements)
    assert not any('mmcv' in line for line in requirements)


def test_config_elsewhere_builds_on_a_config_in_the_wheel(environment, run_installed, tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'pspnet_plugin::psp_r18_cityscapes.py'\n")
    output = run_installed(
        '-c',
        'import pspnet_plugin\n'
        'from mmengine.config import Config\n'
        'print(Config.fromfile("mine.py").model.backbone.depth, pspnet_plugin.__file__)\n',
    )
    depth, file = output.split()[-2:]
    assert depth == '18'
    assert file.startswith(str(environment))


def test_start_of_python_runs_nothing_of_the_plugin(run_installed, wheel):
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith('.pth')]
    loaded = 'import sys; print([name for name in sys.modules if name.startswith("pspnet")])'
    assert run_installed('-c', loaded).strip() == '[]'


def test_tool_in_the_wheel_has_the_stock_command_line(environment, run_installed):
    output = run_installed(tool_in(environment), '--help')
    for option in ('--work-dir', '--resume', '--amp', '--cfg-options', '--launcher'):
        assert option in output


# What the script that pip writes for an entry point does.
CONSOLE_COMMAND = """
import sys
from importlib.metadata import distribution
(command,) = (e for e in distribution('pspnet-plugin').entry_points if e.name == 'pspnet')
sys.exit(command.load()())
"""


def test_console_command_of_the_wheel_runs_without_a_clone(run_installed):
    output = run_installed('-c', CONSOLE_COMMAND, 'config')
    assert 'psp_r50_cityscapes.py' in output.splitlines()


def tool_in(environment):
    return next(environment.rglob('pspnet_plugin/.mim/tools/train.py'))


# The stock tool does not change SyncBN, which needs a GPU.
PARTS = ('backbone', 'decode_head', 'auxiliary_head')
BATCH_NORM = [f'model.{part}.norm_cfg.type=BN' for part in PARTS]


@pytest.mark.parametrize(
    ('tool', 'base'),
    [
        ('own', "'pspnet_plugin::psp_r18_cityscapes.py'"),
        ('stock', "__import__('pspnet_plugin').config_path('psp_r18_cityscapes.py')"),
    ],
    ids=['own', 'stock'],
)
def test_train_tool_runs_a_config_elsewhere_that_builds_on_one_in_the_wheel(
    environment, run_installed, tmp_path, street_scenes, tool, base
):
    (tmp_path / 'mine.py').write_text(f'_base_ = {base}\n')
    script = {'own': tool_in(environment), 'stock': stock_tools() / 'train.py'}[tool]
    options = [*small_run_options(street_scenes, iterations=2), *NARROW_MODEL, *BATCH_NORM]
    output = run_installed(script, 'mine.py', '--work-dir', 'runs', *options)
    (log,) = (tmp_path / 'runs').glob('*/*.log')
    assert 'FactorizedPSPHead' in log.read_text()
    assert 'mIoU' in output
    assert (tmp_path / 'runs' / 'iter_2.pth').is_file()
