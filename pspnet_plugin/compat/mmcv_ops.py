"""``mmcv.ops`` where mmcv has no compiled operators (``mmcv-lite``).

``mmseg.models`` imports some that it rarely uses, so without this it cannot be imported at all.
Not needed with an mmcv that was built with its operators.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types

import torch

from ..errors import PspnetPluginError


class MissingOperatorError(PspnetPluginError):
    """A compiled mmcv operator is needed and the installed mmcv has none."""


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
