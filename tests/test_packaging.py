"""A wheel of the plugin carries its configs and tools, and mmengine finds them in it."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from tests.helpers.processes import ROOT


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """A wheel that is built from a copy of the sources, so that the working tree stays clean."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    source.mkdir()
    for name in ('setup.py', 'pyproject.toml', 'README.md'):
        shutil.copy(ROOT / name, source)
    for name in ('pspnet_plugin', 'configs', 'tools'):
        ignored = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    options = ['--no-deps', '--no-build-isolation', '--wheel-dir', folder]
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', *options, source], check=True)
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
    """Python of a fresh environment with the wheel, and all else from the environment of the tests.

    An editable installation of the plugin works through a .pth file, which is not read from there.
    """
    folder = tmp_path_factory.mktemp('environment')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    paths = {'base': str(folder), 'platbase': str(folder)}
    site_packages = sysconfig.get_path('purelib', vars=paths)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    (folder / 'empty').mkdir()
    with open(f'{site_packages}/dependencies.pth', 'w') as pth:
        pth.write(sysconfig.get_path('purelib') + '\n')
    return folder / 'bin' / 'python', folder / 'empty'


def test_wheel_carries_every_config_and_tool(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    configs = list((ROOT / 'configs').rglob('*.py'))
    tools = [*(ROOT / 'tools').rglob('*.py'), *(ROOT / 'tools').glob('*.sh')]
    assert len(configs) > 10
    assert len(tools) > 5
    for path in [*configs, *tools]:
        assert f'pspnet_plugin/.mim/{path.relative_to(ROOT)}' in packed


def test_wheel_names_no_distribution_of_mmcv(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('METADATA'))
        metadata = archive.read(name).decode()
    requirements = [line for line in metadata.splitlines() if line.startswith('Requires-Dist')]
    assert any('mmsegmentation' in line for line in requirements)
    assert not any('mmcv' in line for line in requirements)


def test_config_elsewhere_builds_on_a_config_in_the_wheel(environment):
    python, folder = environment
    (folder / 'mine.py').write_text("_base_ = 'pspnet_plugin::psp_r18_cityscapes.py'\n")
    code = (
        'from mmengine.config import Config\n'
        'cfg = Config.fromfile("mine.py")\n'
        'import pspnet_plugin\n'
        'print(cfg.model.backbone.depth, pspnet_plugin.__file__)\n'
    )
    output = subprocess.run(
        [python, '-c', code], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    depth, file = output.split()
    assert depth == '18'
    assert file.startswith(str(python.parents[1]))


def test_tool_in_the_wheel_has_the_stock_command_line(environment):
    python, folder = environment
    tool = next(python.parents[1].rglob('.mim/tools/train.py'))
    output = subprocess.run(
        [python, tool, '--help'], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    for option in ('--work-dir', '--resume', '--amp', '--cfg-options', '--launcher'):
        assert option in output
