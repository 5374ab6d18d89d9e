"""Reading checkpoints without running code from them on torch before 2.6.

Wrong: there, ``torch.load`` with ``weights_only=True`` still runs TorchScript archives and unpacks
tar files (CVE-2025-32434), and nothing but tensors can be put on its allow-list.

Changed: no attribute of another package. :func:`load` gives ``torch.load`` a ``pickle_module``
whose unpickler knows the opcodes that torch 2.6 knows, and lets them call, create and fill only
what stands on the list it is given; it refuses the two other kinds of file before torch opens them.

Unnecessary as soon as the plugin no longer supports torch before 2.6, and unused from there on.
"""

from __future__ import annotations

import _compat_pickle
import codecs
import collections
import contextlib
import pickle
import tarfile
import types
from collections.abc import Mapping
from typing import Any

import torch


def installed() -> bool:
    """Whether the installed torch is one before 2.6."""
    return version() < (2, 6)


def version() -> tuple[int, ...]:
    """The first two numbers of the installed torch's version."""
    return tuple(int(part) for part in torch.__version__.split('.')[:2])


def load(file: Any, names: Mapping[str, Any], **options: Any) -> Any:
    """``torch.load`` of data: nothing but torch's own tensors and ``names`` can be in the file.

    Args:
        file: a path, or a file object at the beginning of the checkpoint.
        names: what answers for a name such as ``numpy.dtype`` in the file.
        options: for ``torch.load``.

    Raises:
        UnpicklingError: the file holds something else.
        RuntimeError: it is a TorchScript archive, or broken.
    """
    _refuse_other_formats(file)
    unpickler = type('Unpickler', (DataUnpickler,), {'allowed': {**_names_of_torch(), **names}})
    module: Any = types.ModuleType('data_pickle')
    module.Unpickler = unpickler
    module.load = lambda *args, **kwargs: unpickler(*args, **kwargs).load()
    return torch.load(file, pickle_module=module, weights_only=False, **options)


def _refuse_other_formats(file: Any) -> None:
    """Raise for what ``torch.load`` opens in another way than by the ``pickle_module``.

    torch's own functions look, so that it sees no other file than this does.
    """
    from torch import serialization as torchs

    with torchs._open_file_like(file, 'rb') as opened:
        start = opened.tell()
        if torchs._is_zipfile(opened):
            with torchs._open_zipfile_reader(opened) as archive:
                if torchs._is_torchscript_zip(archive):
                    raise RuntimeError('Cannot use weights_only=True with TorchScript archives')
        else:
            with contextlib.suppress(tarfile.TarError):
                tarfile.open(fileobj=opened, mode='r:').close()
                raise pickle.UnpicklingError('Cannot read data only from a legacy tar file')
        opened.seek(start)


def _names_of_torch() -> dict[str, Any]:
    """What torch 2.6 allows by itself, as far as the installed one has it."""
    from torch import _weights_only_unpickler as torchs

    kinds = [v for v in vars(torch).values() if isinstance(v, (torch.dtype, torch.qscheme))]
    allowed = {
        '_codecs.encode': codecs.encode,  # bytes
        'builtins.bytearray': bytearray,
        'builtins.complex': complex,
        'builtins.set': set,
        'collections.Counter': collections.Counter,
        'torch.device': torch.device,
        'torch._utils._rebuild_qtensor': torch._utils._rebuild_qtensor,
        **{str(kind): kind for kind in kinds},
        **torchs._get_allowed_globals(),
    }
    with_state = getattr(torch._utils, '_rebuild_parameter_with_state', None)  # since torch 2.1
    if with_state:
        allowed['torch._utils._rebuild_parameter_with_state'] = with_state
    # torch writes sparse tensors by a function that checks their indices, not by these classes.
    return {name: value for name, value in allowed.items() if not name.startswith('torch.sparse.')}


# --- the unpickler ------------------------------------------------------------------------------


# Written in Python, so that its opcodes can be overridden; typeshed does not know it.
_Unpickler: Any = pickle._Unpickler


class DataUnpickler(_Unpickler):
    """Python's own unpickler, less all opcodes that torch's does not know, with torch's conditions.

    What may be called, created and filled stands in ``allowed``, by name. All else that a file can
    reach are numbers, strings, lists, tuples, sets, dicts and what the allowed make of them.
    """

    allowed: Mapping[str, Any] = {}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.identities = {id(value) for value in self.allowed.values()}

    def find_class(self, module: str, name: str) -> Any:
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        path = f'{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}'
        if path not in self.allowed:
            shown = path.removeprefix('builtins.')
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {shown}')
        return self.allowed[path]

    def load_reduce(self) -> None:
        self._require(self.stack[-2], 'called')
        super().load_reduce()

    def load_newobj(self) -> None:
        self._require(self.stack[-2], 'created')
        super().load_newobj()

    def load_build(self) -> None:
        filled = self.stack[-2]
        if type(filled) is torch.Tensor:  # torch before 0.4 wrote them so
            filled.set_(*self.stack.pop())
            return
        self._require(type(filled), 'filled')
        super().load_build()

    def load_append(self) -> None:
        _require_container(self.stack[-2], list)
        super().load_append()

    def load_appends(self) -> None:
        _require_container(self.metastack[-1][-1], list)
        super().load_appends()

    def load_setitem(self) -> None:
        _require_container(self.stack[-3], *_MAPPINGS)
        super().load_setitem()

    def load_setitems(self) -> None:
        _require_container(self.metastack[-1][-1], *_MAPPINGS)
        super().load_setitems()

    def load_binpersid(self) -> None:
        identity = self.stack[-1]
        if not isinstance(identity, tuple) or identity[:1] not in (('storage',), (b'storage',)):
            raise pickle.UnpicklingError(f'Only storages lie apart in a file, not {identity!r}')
        super().load_binpersid()

    def _require(self, value: Any, done: str) -> None:
        if id(value) not in self.identities:
            raise pickle.UnpicklingError(f'Only what is allowed can be {done}, but got {value!r}')


_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)


def _require_container(value: Any, *kinds: type) -> None:
    if type(value) not in kinds:
        raise pickle.UnpicklingError(f'Cannot add items to a {type(value).__name__}')


class _Opcodes(dict):
    def __missing__(self, opcode: int) -> Any:
        raise pickle.UnpicklingError(f'Unsupported operand {opcode}')


_KNOWN = """NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE
NEWFALSE NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BINPERSID BININT BININT1 BININT2
BINFLOAT BINGET LONG_BINGET BINPUT LONG_BINPUT BINUNICODE SHORT_BINSTRING LONG1 GLOBAL PROTO
STOP"""


def _opcodes() -> _Opcodes:
    """What reads an opcode: the method above, else that of Python's unpickler."""
    codes = {name: getattr(pickle, name)[0] for name in _KNOWN.split()}
    inherited = DataUnpickler.dispatch
    return _Opcodes(
        (code, vars(DataUnpickler).get(f'load_{name.lower()}', inherited[code]))
        for name, code in codes.items()
    )


DataUnpickler.dispatch = _opcodes()
