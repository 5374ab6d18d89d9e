"""A file of weights -> its tensors by name, without running code from the file."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...compat.checkpoints import load, refused_name
from ...utils.checkpoint_zip import fault_of, is_compressed, pickle_protocol, reason_of
from ..errors import UnsafeWeightsError, WeightsFileError

# Where training programs put the state dict, in the order in which they are looked for: most of
# them, torchvision's references, DINO (the teacher is the better network), other wrappers.
CONTAINERS = ('state_dict', 'model', 'model_state_dict', 'teacher', 'student', 'model_state')

Value = TypeVar('Value')

# Beyond what any training program writes. A dict that stands at several places counts at each.
DEEPEST = 100
MOST_VALUES = 100_000
# Bytes of a tensor whose numbers the file does not have one by one, as those of Tensor.expand().
LARGEST_VIEW = 1 << 30


@dataclass
class Checkpoint:
    """The tensors of a file."""

    tensors: dict[str, Tensor]  # of the state dict, by name, in the file's order
    container: str  # the top-level key that they stood under, '' for none
    everything: dict[str, Tensor]  # of the whole file, by dotted path, for a user's prefix
    meta: dict[str, Any]  # the entry of this name of an OpenMMLab checkpoint


def read_checkpoint(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Read ``path``: a ``.safetensors`` file or what ``torch.save`` wrote, whatever its name.

    Tensors of a file in the zip format are mapped into memory, not copied, unless it is compressed.

    Raises:
        UnsafeWeightsError: the file holds objects other than data and is not trusted.
        WeightsFileError: the file is cut, broken, or something else than weights.
    """
    kind = file_format(path)
    if kind == 'safetensors':
        return find_state_dict(_read_safetensors(path))
    if path.suffix == '.safetensors':
        raise WeightsFileError(
            f'{path} is named .safetensors and was written by torch.save. If you know why, rename '
            'it to .pth.'
        )
    return find_state_dict(_read_torch(path, trust_pickle, kind == 'zip'))


# --- what kind of file it is --------------------------------------------------------------------


def file_format(path: Path) -> str:
    """Tell ``'safetensors'``, ``'zip'`` (torch >= 1.6) and ``'pickle'`` (older) apart."""
    with open(path, 'rb') as file:
        start = file.read(256)
    if not start:
        raise WeightsFileError(f'{path} is empty. Fetch the file again.')
    if start.startswith(b'PK\x03\x04'):
        return 'zip'
    # A .safetensors file begins with the length of its header, whose first byte can be 0x80 too.
    if start[0] == 0x80 and start[5:9] != b'\0\0\0{':
        return 'pickle'
    if len(start) > 8 and start[8:9] == b'{':
        return 'safetensors'
    raise WeightsFileError(f'{path} is not a file of weights but {_looks_like(start)}.')


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
        return load_file(path)
    except Exception as error:  # a broken header, an unknown dtype, a file that goes away
        raise _broken(path, error) from error


def _read_torch(path: Path, trust_pickle: bool, zipped: bool) -> Any:
    options: dict[str, Any] = {}
    if zipped:
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
    """Find the state dict in what a file held: itself, or under one of :data:`CONTAINERS`."""
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping):
        raise WeightsFileError(
            f'The file holds a {type(content).__name__}, not a state dict: save model.state_dict().'
        )
    everything = _all_tensors(content)
    for name, tensor in everything.items():
        _require_numbers(name, tensor)
    container = _container_of(content, everything)
    if container:
        tensors = below(f'{container}.', everything)
    else:
        tensors = {_text(k): v for k, v in content.items() if isinstance(v, Tensor)}
    meta = content.get('meta')
    return Checkpoint(
        tensors, container, everything, dict(meta) if isinstance(meta, Mapping) else {}
    )


def _container_of(content: Mapping, everything: Mapping[str, Tensor], path: str = '') -> str:
    for key in CONTAINERS:
        inner, start = content.get(key), f'{path}{key}.'
        if isinstance(inner, (Mapping, torch.nn.Module)) and below(start, everything):
            deeper = _container_of(inner, everything, start) if isinstance(inner, Mapping) else ''
            return deeper or f'{path}{key}'
    return ''


def _all_tensors(content: Mapping) -> dict[str, Tensor]:
    """The tensors in ``content`` and in the mappings and modules within it, by dotted path."""
    named = list(itertools.islice(_named_values(content), MOST_VALUES + 1))
    if len(named) > MOST_VALUES:
        raise _too_nested()
    return {name: value for name, value in named if isinstance(value, Tensor)}


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


def below(prefix: str, named: Mapping[str, Value]) -> dict[str, Value]:
    """What has a name that begins with ``prefix``, by the rest of its name."""
    return {n[len(prefix) :]: value for n, value in named.items() if n.startswith(prefix)}
