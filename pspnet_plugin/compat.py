"""What the stock OpenMMLab stack needs in order to work on today's PyTorch.

:func:`apply` is called once, when ``pspnet_plugin`` is imported. Each repair first looks whether
the installed versions need it, and leaves them alone where they do not:

- ``mmcv-lite`` has no compiled operators, and ``mmseg.models`` imports some that it rarely uses.
- torch >= 2.6 refuses the checkpoints that mmengine itself writes.
- mmengine asks for a CUDA device when it starts several processes, also for gloo on CPUs, and
  such a process may abort at its end.
- mmengine knows no ``_base_ = 'pspnet_plugin::…'`` (:mod:`pspnet_plugin.config_scope`).
"""

from __future__ import annotations

import atexit
import functools
import importlib
import importlib.util
import sys
import time
import types

import torch
from mmengine.device import get_device

from . import checkpoints, config_scope
from .errors import PspnetPluginError

# Seconds; a thread that waits for Python's lock alone needs microseconds.
GLOO_RELEASES_WITHIN = 0.2


class MissingOperatorError(PspnetPluginError):
    """A compiled mmcv operator is needed and the installed mmcv has none."""


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
        checkpoints.allow_mmengine_checkpoints()
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
        if name in ('get_compiler_version', 'get_compiling_cuda_version'):
            return lambda: 'n/a'  # asked for by collect_env()

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
    called; so code that falls back on an ImportError of ``mmcv.ops`` no longer does.
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


# --- checkpoints --------------------------------------------------------------------------------


def torch_loads_weights_only() -> bool:
    """Whether ``torch.load`` refuses by default what is not on its allow-list (torch >= 2.6)."""
    return tuple(int(part) for part in torch.__version__.split('.')[:2]) >= (2, 6)


def explain_checkpoint_errors() -> None:
    """Make mmengine's reader say in one line why a checkpoint is refused and what to do."""
    from mmengine.runner.checkpoint import CheckpointLoader

    read = CheckpointLoader.load_checkpoint.__func__
    if hasattr(read, 'explains_errors'):
        return

    @functools.wraps(read)
    def load_checkpoint(cls, filename, *args, **kwargs):
        try:
            return read(cls, filename, *args, **kwargs)
        except Exception as error:  # torch reports a broken file in a dozen ways
            message = checkpoints.explain_load_error(str(filename), error)
            if message is None:
                raise
            raise checkpoints.CheckpointError(message) from error

    load_checkpoint.explains_errors = True
    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


# --- several processes without a GPU ------------------------------------------------------------


def start_gloo_without_gpu() -> None:
    """Let ``--launcher pytorch`` start gloo processes on a machine without a GPU.

    mmengine selects a CUDA device first, which raises where there is no driver. It also leaves the
    process group to the interpreter's end, where a worker thread of gloo that has yet to release
    the tensors of the last collective aborts the process: it needs Python's lock for that, and
    gets it while the main thread waits.
    """
    from mmengine.dist import utils

    start = utils._init_dist_pytorch
    if hasattr(start, 'starts_gloo'):
        return

    @functools.wraps(start)
    def init_dist_pytorch(backend, init_backend='torch', **kwargs):
        if (backend, init_backend) == ('gloo', 'torch'):
            torch.distributed.init_process_group(backend=backend, **kwargs)
            atexit.register(time.sleep, GLOO_RELEASES_WITHIN)
        else:
            start(backend, init_backend=init_backend, **kwargs)

    init_dist_pytorch.starts_gloo = True
    utils._init_dist_pytorch = init_dist_pytorch
