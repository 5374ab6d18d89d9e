"""What the stock OpenMMLab stack needs in order to work on today's PyTorch.

:func:`apply` is called once, when ``pspnet_plugin`` is imported. Each repair first looks whether
the installed versions need it, and leaves them alone where they do not:

- ``mmcv-lite`` has no compiled operators, and ``mmseg.models`` imports some that it rarely uses.
- torch refuses the checkpoints that mmengine itself writes, and reads those from the web, as
  mmengine asks it to, with whatever code they hold.
- mmengine asks for a CUDA device when it starts several processes, also for gloo on CPUs, and
  such a process may abort at its end.
- mmengine knows no ``_base_ = 'pspnet_plugin::…'`` (:mod:`pspnet_plugin.config_scope`).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import time
import types
from collections.abc import Iterator

import torch
from mmengine.device import get_device

from . import checkpoints, config_scope
from .errors import PspnetPluginError

# Seconds; a thread that waits for Python's lock alone needs microseconds.
GLOO_RELEASES_WITHIN = 0.2
# What torch takes for a yes in its environment variables.
TORCH_TRUE = ('1', 'y', 'yes', 'true')


class MissingOperatorError(PspnetPluginError):
    """A compiled mmcv operator is needed and the installed mmcv has none."""


def apply() -> None:
    """Repair what needs repair in the installed mmengine, mmcv and mmseg.

    Raises:
        ImportError: torch is too old, or mmseg is installed without any distribution of mmcv.
    """
    require_safe_torch()
    if importlib.util.find_spec('mmseg') is not None:
        require_mmcv()
        if importlib.util.find_spec('mmcv._ext') is None:
            load_mmcv_operators_without_extension()
    checkpoints.allow_mmengine_checkpoints()
    read_checkpoints_safely()
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


def require_safe_torch() -> None:
    """Raise an ImportError where torch cannot be told which stand-ins a checkpoint may call."""
    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        raise ImportError(
            f'pspnet_plugin needs torch 2.6 or later and torch {torch.__version__} is installed: '
            'an older one runs the code inside a checkpoint. Run "pip install \'torch>=2.6\'".'
        )


def read_checkpoints_safely() -> None:
    """Make every loader of mmengine refuse code in a checkpoint, and say in one line why.

    All of them stand behind one door: paths, ``http://``, ``torchvision://``, ``open-mmlab://`` and
    the rest, for the test tool, ``--resume``, ``load_from`` and ``Pretrained``.
    """
    from mmengine.runner.checkpoint import CheckpointLoader

    read = CheckpointLoader.load_checkpoint.__func__
    if hasattr(read, 'reads_safely'):
        return

    @functools.wraps(read)
    def load_checkpoint(cls, filename, *args, **kwargs):
        try:
            with _without_code():
                return read(cls, filename, *args, **kwargs)
        except Exception as error:  # torch reports a broken file in a dozen ways
            message = checkpoints.explain_load_error(str(filename), error)
            if message is None:
                raise
            raise checkpoints.CheckpointError(message) from error

    load_checkpoint.reads_safely = True
    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


@contextlib.contextmanager
def _without_code() -> Iterator[None]:
    """Let ``torch.load`` read nothing but data, whatever its caller asks for.

    mmengine's loaders for the web ask for ``weights_only=False``, by way of torch.hub.
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD stays the user's word that all files may run code.
    """
    before = os.environ.get('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '').lower() not in TORCH_TRUE:
        os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    try:
        yield
    finally:
        os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)
        if before is not None:
            os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = before


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
