"""A file of weights -> its tensors by name, without running code from the file."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...archives import fault_of, is_compressed, is_zip, pickle_protocol, reason_of
from ...compat.checkpoints import load, refused_name
from ..errors import UnsafeWeightsError, WeightsFileError

# Where training programs put the state dict, in the order in which they are looked for: most of
# them, torchvision's references, DINO (the teacher is the better network), other wrappers.
CONTAINERS = ('state_dict', 'model', 'model_state_dict', 'teacher', 'student', 'model_state')

# Beyond what any training program writes. A dict that stands at several places counts at each.
DEEPEST = 100
MOST_VALUES = 100_000
# Bytes of a tensor whose numbers the file does not have one by one, as those of Tensor.expand().
LARGEST_VIEW = 1 << 30


@dataclass
class Checkpoint:
    """The tensors of a file.

    ``tensors`` are those of the state dict, by name, in the file's order; ``container`` is the
    top-level key that they stood under, ``''`` for none. ``everything`` holds the tensors of the
    whole file, by dotted path, so that a user's prefix can reach one under an unusual key;
    ``meta`` is the ``meta`` entry of an OpenMMLab checkpoint; ``has_arrays`` tells of numpy arrays.
    """

    tensors: dict[str, Tensor]
    container: str = ''
    everything: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    has_arrays: bool = False


def read_checkpoint(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Read ``path``: a ``.safetensors`` file or what ``torch.save`` wrote, whatever its name.

    Tensors of a file in the zip format are mapped into memory, not copied, unless it is compressed.

    Raises:
        UnsafeWeightsError: the file holds objects other than data and is not trusted.
        WeightsFileError: the file is missing, not readable, cut, or something else than weights.
    """
    if file_format(path) == 'safetensors':
        return find_state_dict(_read_safetensors(path))
    if path.suffix == '.safetensors':
        raise WeightsFileError(
            f'{path} is named .safetensors and was written by torch.save. If you know why, rename '
            'it to .pth.'
        )
    return find_state_dict(_read_torch(path, trust_pickle))


# --- what kind of file it is --------------------------------------------------------------------


def file_format(path: Path) -> str:
    """Tell ``'safetensors'``, ``'zip'`` (torch >= 1.6) and ``'pickle'`` (older) apart.

    Raises:
        WeightsFileError: it is none of them, or visibly not whole.
    """
    start = _first_bytes(path)
    if not start:
        raise WeightsFileError(f'{path} is empty. Fetch the file again.')
    if start.startswith(b'PK\x03\x04'):
        if not is_zip(path):
            raise WeightsFileError(f'{path} is cut: its end is missing. Fetch the file again.')
        return 'zip'
    # A .safetensors file begins with the length of its header, whose first byte can be 0x80 too.
    if start[0] == 0x80 and start[5:9] != b'\0\0\0{':
        return 'pickle'
    if len(start) > 8 and start[8:9] == b'{':
        return 'safetensors'
    raise WeightsFileError(f'{path} is not a file of weights but {_looks_like(start)}.')


def _first_bytes(path: Path) -> bytes:
    try:
        with open(path, 'rb') as file:
            return file.read(256)
    except OSError as error:
        raise WeightsFileError(f'{path} cannot be read: {error.strerror}.') from error


def _looks_like(start: bytes) -> str:
    text = start.lstrip().lower()
    if text.startswith((b'<!doctype', b'<html', b'<?xml')):
        return 'a web page: the address asks for a login, or is the page about the file'
    if text.startswith(b'version https://git-lfs'):
        return 'a Git LFS pointer: run "git lfs pull" where it came from'
    if all(byte in b'\t\n\r' or byte >= 32 for byte in start):
        return f'a text that begins with {start[:40].decode("utf-8", "replace")!r}'
    return f'data of an unknown kind that begins with {start[:8].hex(" ")}'


# --- reading ------------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise WeightsFileError(
            f'{path} needs the package safetensors: run "pip install safetensors".'
        ) from None
    try:
        return load_file(path)
    except Exception as error:  # a broken header, an unknown dtype, a file that goes away
        raise _broken(path, error) from error


def _read_torch(path: Path, trust_pickle: bool) -> Any:
    options: dict[str, Any] = {}
    if is_zip(path):
        fault = fault_of(path)
        if fault:
            raise WeightsFileError(f'{path} {fault} Fetch the file again.')
        options['mmap'] = not is_compressed(path)
    try:
        return load(path, 'cpu', data_only=not trust_pickle, **options)
    except Exception as error:  # torch reports a broken file in a dozen ways
        refused = refused_name(error) if isinstance(error, pickle.UnpicklingError) else None
        if refused:
            raise UnsafeWeightsError(
                f'{path} holds {refused}, which is not data: reading it could run code, so it was '
                'not read. If you trust whoever made the file, say trust_pickle=True; otherwise '
                'save only its state_dict again.'
            ) from error
        if 'TorchScript' in str(error):
            raise UnsafeWeightsError(
                f'{path} is a TorchScript program, not a state dict: save its state_dict() instead.'
            ) from error
        protocol = pickle_protocol(path)
        if 3 < protocol <= pickle.HIGHEST_PROTOCOL and isinstance(error, pickle.UnpicklingError):
            raise UnsafeWeightsError(
                f'{path} was saved with pickle_protocol={protocol}, which torch reads only where '
                'the file may run code. Save it again with pickle_protocol=2, or if you trust '
                'whoever made the file, say trust_pickle=True.'
            ) from error
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> WeightsFileError:
    return WeightsFileError(f'{path} is cut or broken ({reason_of(error)}). Fetch the file again.')


# --- the state dict inside ----------------------------------------------------------------------


def find_state_dict(content: Any) -> Checkpoint:
    """Find the state dict in what a file held: itself, or under one of :data:`CONTAINERS`.

    Raises:
        WeightsFileError: the file holds neither a mapping nor a module.
    """
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise WeightsFileError(
            f'The file holds a {type(content).__name__}, not a state dict: save model.state_dict().'
        )
    values = _all_values(content)
    everything = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    for name, tensor in everything.items():
        _require_numbers(name, tensor)
    container = _container_of(content, everything)
    stated = content.get('state_dict', {})
    if not container and not isinstance(stated, (Mapping, Tensor)):
        raise WeightsFileError(
            f"'state_dict' in the file is a {type(stated).__name__}, not a mapping of names to "
            'tensors: save model.state_dict() there.'
        )
    if container:
        start = f'{container}.'
        tensors = {k[len(start) :]: v for k, v in everything.items() if k.startswith(start)}
    else:
        tensors = {_text(k): v for k, v in content.items() if isinstance(v, Tensor)}
    meta = content.get('meta')
    return Checkpoint(
        tensors,
        container,
        everything,
        meta=dict(meta) if isinstance(meta, Mapping) else {},
        has_arrays=any(isinstance(value, np.ndarray) for value in values.values()),
    )


def _container_of(content: Mapping, everything: Mapping[str, Tensor], path: str = '') -> str:
    for key in CONTAINERS:
        inner, start = content.get(key), f'{path}{key}.'
        if isinstance(inner, torch.nn.Module):
            return f'{path}{key}'
        if isinstance(inner, Mapping) and any(name.startswith(start) for name in everything):
            return _container_of(inner, everything, start) or f'{path}{key}'
    return ''


def _all_values(content: Mapping) -> dict[str, Any]:
    """The values in ``content`` and in the mappings and modules within it, by dotted path."""
    named = list(itertools.islice(_named_values(content), MOST_VALUES + 1))
    if len(named) > MOST_VALUES:
        raise _too_nested()
    return dict(named)


def _named_values(content: Mapping, path: str = '', depth: int = 1) -> Iterator[tuple[str, Any]]:
    if depth > DEEPEST:
        raise _too_nested()
    for key, value in content.items():
        name = f'{path}{_text(key)}'
        yield name, value
        if isinstance(value, torch.nn.Module):
            value = value.state_dict()
        if isinstance(value, Mapping):
            yield from _named_values(value, f'{name}.', depth + 1)


def _too_nested() -> WeightsFileError:
    return WeightsFileError(
        f'The file holds dicts that are nested more than {DEEPEST} deep, more than '
        f'{MOST_VALUES:,} values, or a dict that holds itself. Save only the state_dict again.'
    )


def _text(key: Any) -> str:
    """A key as a part of a name; what is no name could be as large as the whole file."""
    return str(key) if isinstance(key, (str, int, float)) else type(key).__name__


def _require_numbers(name: str, tensor: Tensor) -> None:
    """Raise WeightsFileError for a large tensor of which the file has a few numbers only."""
    if tensor.layout != torch.strided or tensor.is_meta:
        return
    size, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > max(held, LARGEST_VIEW):
        raise WeightsFileError(
            f'{name} in the file has the shape {list(tensor.shape)}, {size:,} bytes, of which the '
            f'file holds {held:,}. Save its .contiguous() copy, or leave it out.'
        )
