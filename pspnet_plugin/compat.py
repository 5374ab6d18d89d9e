"""What the stock OpenMMLab stack needs in order to work on today's PyTorch.

:func:`apply` is called once, when ``pspnet_plugin`` is imported. Each repair first looks whether
the installed versions need it, and leaves them alone where they do not:

- ``mmcv-lite`` has no compiled operators, and ``mmseg.models`` imports some that it rarely uses.
- torch >= 2.6 refuses the checkpoints that mmengine itself writes.
- mmengine asks for a CUDA device when it starts several processes, also for gloo on CPUs.
- mmengine knows no ``_base_ = 'pspnet_plugin::…'`` (:mod:`pspnet_plugin.config_scope`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pickle
import re
import sys
import types
import zipfile
from pathlib import Path

import torch
from mmengine.device import get_device

from . import config_scope
from .errors import PspnetPluginError


class MissingOperatorError(PspnetPluginError):
    """A compiled mmcv operator is needed and the installed mmcv has none."""


class CheckpointError(PspnetPluginError):
    """A checkpoint cannot be read: it is broken, or it holds more than data."""


def apply() -> None:
    """Repair what needs repair in the installed mmengine, mmcv and mmseg.

    Raises:
        ImportError: mmseg is installed without any distribution of mmcv.
    """
    if importlib.util.find_spec('mmseg') is not None:
        require_mmcv()
        if importlib.util.find_spec('mmcv._ext') is None:
            load_mmcv_operators_without_extension()
    if torch_loads_weights_only():
        allow_mmengine_checkpoints()
        explain_checkpoint_errors()
    if get_device() in ('cpu', 'mps'):
        start_gloo_without_gpu()
    config_scope.teach_on_import()


# --- mmcv without compiled operators ------------------------------------------------------------


def require_mmcv() -> None:
    """Raise an ImportError that says what to install where mmseg has no mmcv to import."""
    if importlib.util.find_spec('mmcv') is None:
        raise ImportError(
            'mmsegmentation needs mmcv and none is installed: run "pip install mmcv-lite==2.1.0", '
            'or build mmcv 2.1.0 if you need its compiled operators (PSPNet needs none).'
        )


class _MissingExtension(types.ModuleType):
    """Stands for ``mmcv._ext`` while ``mmcv.ops`` is imported: an operator raises when called."""

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)

        def missing_operator(*args, **kwargs):
            raise MissingOperatorError(_missing_operator_message(f'The operator {name}'))

        return missing_operator


def _missing_operator_message(what: str) -> str:
    return (
        f'{what} is compiled code that mmcv-lite does not contain: to use it, run '
        '"pip uninstall mmcv-lite" and install mmcv 2.1.0 with operators (MMCV_WITH_OPS=1).'
    )


def load_mmcv_operators_without_extension() -> None:
    """Import ``mmcv.ops`` from the Python sources that ``mmcv-lite`` carries, without ``_ext``.

    Operators written in Python (``point_sample``, ``CrissCrossAttention`` …) work. A module that
    calls compiled code raises :class:`MissingOperatorError` when it is built, a function when it is
    called.
    """
    if 'mmcv.ops' in sys.modules:
        return
    extension = _MissingExtension('mmcv._ext')
    sys.modules['mmcv._ext'] = extension
    try:
        importlib.import_module('mmcv.ops')
    finally:
        # Gone again, so that whoever asks whether the extension is installed gets the true answer.
        del sys.modules['mmcv._ext']
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and getattr(module, 'ext_module', None) is extension:
            _refuse_to_build_modules_of(module)


def _refuse_to_build_modules_of(operator: types.ModuleType) -> None:
    for name, value in list(vars(operator).items()):
        defined_here = isinstance(value, type) and value.__module__ == operator.__name__
        if defined_here and issubclass(value, torch.nn.Module) and not _runs_in_python(name):
            value.__init__ = _raise_on_build(value.__init__, name)


def _runs_in_python(name: str) -> bool:
    # mmcv computes this one with grid_sample where the tensors are on the CPU.
    return name == 'MultiScaleDeformableAttention' and not torch.cuda.is_available()


def _raise_on_build(init, name: str):
    @functools.wraps(init)
    def refuse(self, *args, **kwargs):
        raise MissingOperatorError(_missing_operator_message(f'mmcv.ops.{name}'))

    return refuse


# --- checkpoints on torch >= 2.6 ----------------------------------------------------------------


def torch_loads_weights_only() -> bool:
    """Whether ``torch.load`` refuses by default what is not on its allow-list (torch >= 2.6)."""
    return tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6)


def allow_mmengine_checkpoints() -> None:
    """Put the harmless classes that mmengine writes into checkpoints on torch's allow-list."""
    import numpy as np
    from mmengine.logging import HistoryBuffer

    multiarray = np.core.multiarray if np.__version__ < '2' else np._core.multiarray
    allowed = [HistoryBuffer, np.ndarray, np.dtype, (_history_buffer_method, 'builtins.getattr')]
    for package in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [
            (multiarray.scalar, f'{package}.scalar'),
            (multiarray._reconstruct, f'{package}._reconstruct'),
        ]
    # From numpy 1.25 on, the type of dtype('float64') is a class of its own.
    allowed += {type(np.dtype(code)) for code in '?bBhHiIlLqQefdU'}
    torch.serialization.add_safe_globals(allowed)


def _history_buffer_method(owner, name: str):
    """Answer for ``builtins.getattr`` in a checkpoint: a statistic of HistoryBuffer, nothing else.

    A HistoryBuffer pickles the table of its statistics as calls ``getattr(HistoryBuffer, name)``.
    """
    from mmengine.logging import HistoryBuffer

    # The table of statistics is filled when the first HistoryBuffer is made.
    if owner is HistoryBuffer and name in HistoryBuffer()._statistics_methods:
        return getattr(owner, name)
    owner_name = getattr(owner, '__name__', type(owner).__name__)
    raise pickle.UnpicklingError(f'GLOBAL builtins.getattr({owner_name}.{name})')


def explain_checkpoint_errors() -> None:
    """Make mmengine's reader say in one line why a checkpoint is refused and what to do."""
    from mmengine.runner.checkpoint import CheckpointLoader

    read = CheckpointLoader.load_checkpoint.__func__
    if hasattr(read, '__wrapped__'):
        return

    @functools.wraps(read)
    def load_checkpoint(cls, filename, map_location=None, logger='current'):
        try:
            return read(cls, filename, map_location, logger)
        except (pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
            message = explain_load_error(str(filename), error)
            if message is None:
                raise
            raise CheckpointError(message) from error

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


def explain_load_error(filename: str, error: Exception) -> str | None:
    """What is wrong with a checkpoint that torch refused, or None where the reason is elsewhere."""
    refused = re.search(r'GLOBAL (\S+)|[Uu]nsupported class (\S+)', str(error))
    if refused:
        name = refused.group(1) or refused.group(2)
        return (
            f'The checkpoint {filename} holds {name}, which is not data: loading it can run code. '
            'If you trust whoever made the file, allow it by torch.serialization.add_safe_globals '
            'in a module that your config imports; otherwise save only the state_dict again.'
        )
    path = Path(filename)
    # torch reports a cut file in several ways, depending on where it ends.
    cut = path.is_file() and not isinstance(error, PermissionError) and not zipfile.is_zipfile(path)
    if not cut and not isinstance(error, (pickle.UnpicklingError, EOFError)):
        return None
    earlier = last_whole_checkpoint_before(path)
    way_out = (
        f'The last whole checkpoint before it is {earlier}: resume with '
        f'--resume --cfg-options load_from={earlier}'
        if earlier
        else 'No whole checkpoint lies beside it: start again, or fetch the file again.'
    )
    return f'The checkpoint {filename} is broken or incomplete. {way_out}'


def last_whole_checkpoint_before(broken: Path) -> Path | None:
    """The newest readable ``.pth`` file beside ``broken`` that is not newer than it, if any."""
    if not broken.is_file():
        return None
    written = broken.stat().st_mtime
    others = [path for path in broken.parent.glob('*.pth') if path != broken]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        if path.stat().st_mtime <= written and zipfile.is_zipfile(path):
            return path
    return None


# --- several processes without a GPU ------------------------------------------------------------


def start_gloo_without_gpu() -> None:
    """Let ``--launcher pytorch`` start gloo processes on a machine without a GPU.

    mmengine selects a CUDA device first, which raises where there is no driver.
    """
    from mmengine.dist import utils

    start = utils._init_dist_pytorch
    if hasattr(start, '__wrapped__'):
        return

    @functools.wraps(start)
    def init_dist_pytorch(backend, init_backend='torch', **kwargs):
        if (backend, init_backend) == ('gloo', 'torch'):
            torch.distributed.init_process_group(backend=backend, **kwargs)
        else:
            start(backend, init_backend=init_backend, **kwargs)

    utils._init_dist_pytorch = init_dist_pytorch
