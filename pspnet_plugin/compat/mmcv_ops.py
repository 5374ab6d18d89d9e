"""``mmcv.ops`` where mmcv has no compiled operators (``mmcv-lite``).

Wrong: MMSegmentation 1.2 imports operators that it rarely uses, so without compiled ones it cannot
be imported at all. Its fork ``onedl-mmsegmentation`` can, and is left as it is.

Changed, with mmcv-lite and MMSegmentation 1.2, for as long as the process runs: ``mmcv.ops`` is
imported with a stand-in for ``mmcv._ext``. Operators written in Python (``point_sample``,
``CrissCrossAttention`` …) work. A module that needs compiled code raises
:class:`MissingOperatorError` when it is built, a function when it is called; so code that falls
back on an ImportError of ``mmcv.ops`` no longer does.

Unnecessary as soon as mmseg imports these operators only where a model uses them, and at once with
an mmcv that was built with its operators.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

import torch

from ..errors import PspnetPluginError


class MissingOperatorError(PspnetPluginError):
    """A compiled mmcv operator is needed and the installed mmcv has none."""


def patch() -> None:
    """Import ``mmcv.ops`` without ``mmcv._ext`` where mmseg cannot be imported otherwise.

    Raises:
        ImportError: mmseg has no mmcv to import.
    """
    if importlib.util.find_spec('mmseg') is None:
        return
    if importlib.util.find_spec('mmcv') is None:
        raise ImportError(
            'mmsegmentation needs mmcv and none is installed: run "pip install mmcv-lite==2.1.0", '
            'or build mmcv 2.1.0 if you need its compiled operators (PSPNet needs none).'
        )
    try:
        importlib.import_module('mmseg.utils')  # the first of its packages that imports one
        return
    except ModuleNotFoundError as error:
        if error.name != 'mmcv._ext':
            raise
    extension = sys.modules['mmcv._ext'] = _MissingExtension('mmcv._ext')
    try:
        importlib.import_module('mmcv.ops')
    finally:
        # Gone again, so that whoever asks whether the extension is installed gets the true answer.
        del sys.modules['mmcv._ext']
    for name, operator in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and getattr(operator, 'ext_module', None) is extension:
            kinds: list[Any] = [k for k in vars(operator).values() if _is_compiled(k, name)]
            for kind in kinds:
                raising = _raising(f'mmcv.ops.{kind.__name__}')
                kind.__init__ = functools.wraps(kind.__init__)(raising)


class _MissingExtension(types.ModuleType):
    """Stands for ``mmcv._ext`` while ``mmcv.ops`` is imported: an operator raises when called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        if name in ('get_compiler_version', 'get_compiling_cuda_version'):
            return lambda: 'n/a'  # asked for by collect_env()
        return _raising(f'The operator {name}')


def _is_compiled(kind: Any, module: str) -> bool:
    """Whether ``kind`` is a layer that ``module`` defines and that cannot run in Python."""
    if not isinstance(kind, type) or kind.__module__ != module:
        return False
    # mmcv computes this one with grid_sample where the tensors are on the CPU.
    in_python = kind.__name__ == 'MultiScaleDeformableAttention' and not torch.cuda.is_available()
    return issubclass(kind, torch.nn.Module) and not in_python


def _raising(what: str) -> Callable:
    def missing_operator(*args: Any, **kwargs: Any) -> None:
        raise MissingOperatorError(
            f'{what} is compiled code that mmcv-lite does not contain: to use it, run '
            '"pip uninstall mmcv-lite" and install mmcv 2.1.0 with operators (MMCV_WITH_OPS=1).'
        )

    return missing_operator
