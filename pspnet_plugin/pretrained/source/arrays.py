"""A pickle of numpy arrays, as detectron2's ``.pkl`` files are, read without running its code."""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map

from ...utils.checkpoint_errors import reason_of
from ..errors import WeightsFileError

# What a pickle calls for an array or a number of numpy; the modules differ between its versions.
FUNCTIONS: tuple[Any, ...] = (
    np.ndarray,
    np.dtype,
    OrderedDict,
    codecs.encode,  # of the text that bytes are written as in old protocols
    np.float32().__reduce__()[0],
    *(np.zeros(1).__reduce_ex__(protocol)[0] for protocol in (2, 5)),
)
CALLED = {function.__name__: function for function in FUNCTIONS}
MODULES = ('numpy', 'collections', '_codecs')


class _NotAnArray(pickle.UnpicklingError):
    pass


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.partition('.')[0] not in MODULES or name not in CALLED:
            raise _NotAnArray(f'{module}.{name}')
        return CALLED[name]


def read_arrays(path: Path) -> Mapping | None:
    """The dicts in a pickle, with tensors in place of numpy's arrays of numbers.

    None for a file that holds something else, or would call something else to be read.

    Raises:
        WeightsFileError: the file is cut or broken.
    """
    with open(path, 'rb') as file:
        try:
            content = _ArrayUnpickler(file, encoding='latin1').load()
        except _NotAnArray:
            return None
        except Exception as error:  # a broken pickle calls what it may call with anything
            reason = reason_of(error)
            raise WeightsFileError(
                f'{path} is cut or broken ({reason}). Fetch the file again.'
            ) from error
    return tree_map(_tensor, content) if isinstance(content, Mapping) else None


def _tensor(value: Any) -> Any:
    is_numbers = isinstance(value, np.ndarray) and value.dtype.kind in 'fib'
    return torch.from_numpy(np.ascontiguousarray(value)) if is_numbers else value
