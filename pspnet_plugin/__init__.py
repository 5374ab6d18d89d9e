"""PSPNet for MMSegmentation: exact fast heads, pretrained weights that load, layers that freeze.

Importing the package repairs what the stock stack needs (:mod:`pspnet_plugin.compat`) and registers
everything in :mod:`pspnet_plugin.registered`, so a config only says
``custom_imports = dict(imports=['pspnet_plugin'])``. Without mmseg, the hooks and the initializer
serve any mmengine project.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'

# What a training run, or a command that does without torch, does not need is imported when it is
# asked for.
LOOKED_UP = {
    'config_path': 'utils.config_files',
    'ExportSettings': 'app.export.settings',
    'Prediction': 'app.prediction',
    'export_model': 'app.export.write',
    'init_model': 'app.models',
    'predict': 'app.prediction',
}


def _starts_the_command() -> bool:
    """Whether ``pspnet`` or ``python -m pspnet_plugin`` starts, whose ``--help`` needs no torch.

    The command registers everything by itself, where Ctrl-C is one line already.
    """
    from multiprocessing.process import parent_process

    program = Path(sys.argv[0]).name if sys.argv else ''
    if program == '-m':  # while the package is imported whose name follows
        typed = getattr(sys, 'orig_argv', [])  # Python >= 3.10
        is_command = '-m' in typed and typed[typed.index('-m') + 1 :][:1] == [__name__]
    else:
        is_command = program in ('pspnet', 'pspnet.exe')
    return is_command and parent_process() is None


if TYPE_CHECKING or not _starts_the_command():
    from . import registered
    from .registered import *  # noqa: F403

    __all__: list[str] = ['__version__', *registered.__all__]
    if importlib.util.find_spec('mmseg') is not None:
        __all__ += ['ExportSettings', 'Prediction', 'export_model', 'init_model', 'predict']
if TYPE_CHECKING:
    from .app.export.settings import ExportSettings
    from .app.export.write import export_model
    from .app.models import init_model
    from .app.prediction import Prediction, predict


def __getattr__(name: str) -> Any:
    module = importlib.import_module(f'.{LOOKED_UP.get(name, "registered")}', __name__)
    if name in LOOKED_UP or name in module.__all__:
        return getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
