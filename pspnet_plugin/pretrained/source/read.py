"""A file of weights -> its tensors by name, without running code from the file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ...compat.checkpoints import load
from ...utils.checkpoint_errors import reason_of, why_unreadable
from ...utils.checkpoint_zip import fault_of, has_checksums, is_compressed, is_zip
from ..errors import UnsafeWeightsError, WeightsFileError
from .arrays import read_arrays

# Where training programs put the state dict, in the order in which they are looked for: most of
# them, torchvision's references, DINO (the teacher is the better network), other wrappers.
USUAL = ('state_dict', 'model', 'model_state_dict', 'teacher', 'student', 'model_state')
CONTAINERS = (*USUAL, 'params_ema', 'params', 'module', 'net', 'weights')
INDEX = '.index.json'  # how the name ends of a file that says which shard holds which tensor

# Beyond what any training program writes. A dict that several keys lead to counts once for each.
DEEPEST = 100
MOST_VALUES = 100_000
# Bytes of a tensor whose numbers the file does not have one by one, as those of Tensor.expand().
LARGEST_VIEW = 1 << 30


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file."""

    tensors: dict[str, Tensor]  # of the state dict, by name, in the file's order
    container: str  # the top-level key that the state dict stands under, '' for none
    everything: dict[str, Tensor]  # of the whole file, by dotted path, for a user's prefix
    meta: dict[str, Any]  # the entry of this name of an OpenMMLab checkpoint


def read_checkpoint(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Read ``path``: a ``.safetensors`` file or what ``torch.save`` wrote, whatever its name.

    Or the index of a checkpoint in several such files, which stand beside it, or a ``.pkl`` of
    numpy arrays.

    Tensors of a file in the zip format are mapped into memory, not copied, unless it is compressed.

    Raises:
        UnsafeWeightsError: the file holds objects other than data and is not trusted.
        WeightsFileError: the file is cut, broken, or something else than weights.
    """
    found = [find_state_dict(_content_of(shard, trust_pickle)) for shard in shards_of(path)]
    if len(found) == 1:
        return found[0]
    return find_state_dict({name: t for shard in found for name, t in shard.tensors.items()})


def shards_of(path: Path) -> list[Path]:
    """The files that an index names; for any other file itself."""
    if not path.name.endswith(INDEX):
        return [path]
    try:
        named = json.loads(path.read_text(encoding='utf-8'))['weight_map'].values()
        shards = [path.with_name(name) for name in dict.fromkeys(named)]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsFileError(
            f'{path} is no index of shards ({reason_of(error)}): it has no "weight_map" of names.'
        ) from error
    return shards


def _content_of(path: Path, trust_pickle: bool) -> Any:
    if not path.is_file():
        raise WeightsFileError(f'{path} is missing: fetch all the files that the index names.')
    arrays = read_arrays(path) if path.suffix == '.pkl' and not is_zip(path) else None
    if arrays is not None:
        return arrays
    return _read_safetensors(path) if _is_safetensors(path) else _read_torch(path, trust_pickle)


def require_whole(path: Path) -> None:
    """Raise WeightsFileError unless ``path`` is a whole file of weights that can be checked."""
    with contextlib.suppress(UnsafeWeightsError):  # which is for those who load it to refuse
        read_checkpoint(path)
    if is_zip(path) and not has_checksums(path):
        raise WeightsFileError(f'{path} was saved without checksums, give its sha256=...')


def _is_safetensors(path: Path) -> bool:
    with open(path, 'rb') as file:
        start = file.read(9)
    # The length of a header stands before it, whose first byte can be that of a pickle, 0x80.
    return start[8:] == b'{' and (start[0] != 0x80 or start[5:8] == bytes(3))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, 'pt') as file:
            tied = file.metadata() or {}
        tensors = load_file(path)
        # safetensors.torch.save_model writes one of several names of a tensor, and here which.
        tied = {other: tensors[name] for other, name in tied.items() if name in tensors}
        return {**tied, **tensors}
    except Exception as error:  # a broken header, an unknown dtype, a file that goes away
        reason = reason_of(error)
        raise WeightsFileError(
            f'{path} is cut or broken ({reason}). Fetch the file again.'
        ) from error


def _read_torch(path: Path, trust_pickle: bool) -> Any:
    if path.suffix == '.safetensors':
        raise WeightsFileError(
            f'{path} is named .safetensors and was written by torch.save. If you know why, rename '
            'it to .pth.'
        )
    zipped = is_zip(path)
    fault = fault_of(path) if zipped else None
    if fault:
        raise WeightsFileError(f'{path} {fault} Fetch the file again.')
    options = {'mmap': not is_compressed(path)} if zipped else {}
    try:
        return load(path, 'cpu', data_only=not trust_pickle, **options)
    except Exception as error:  # torch reports a broken file in a dozen ways
        trust = 'say trust_pickle=True'
        reason, unsafe = why_unreadable(path, error, trust, trust)
        if unsafe:
            raise UnsafeWeightsError(f'{path} {reason}') from error
        raise WeightsFileError(f'{path} {reason} Fetch the file again.') from error


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
    if not everything:
        raise WeightsFileError(
            'The file holds no tensors by name. Save model.state_dict() again; numpy arrays become '
            'tensors by torch.as_tensor(array).'
        )
    container = _container_of(content, everything)
    if container:
        start = f'{container}.'
        tensors = {n[len(start) :]: t for n, t in everything.items() if n.startswith(start)}
    else:
        tensors = {_text(k): v for k, v in content.items() if isinstance(v, Tensor)}
    meta = content.get('meta')
    meta = dict(meta) if isinstance(meta, Mapping) else {}
    return Checkpoint(tensors, container, everything, meta)


def _container_of(content: Mapping, everything: Mapping[str, Tensor], path: str = '') -> str:
    for key in CONTAINERS:
        inner, start = content.get(key), f'{path}{key}.'
        has_tensors = any(name.startswith(start) for name in everything)
        if isinstance(inner, (Mapping, torch.nn.Module)) and has_tensors:
            deeper = _container_of(inner, everything, start) if isinstance(inner, Mapping) else ''
            return deeper or f'{path}{key}'
    return ''


def _all_tensors(content: Mapping) -> dict[str, Tensor]:
    """The tensors in ``content`` and in the mappings and modules within it, by dotted path."""
    tensors: dict[str, Tensor] = {}
    for count, (name, value, depth) in enumerate(_named_values(content)):
        if count == MOST_VALUES or depth > DEEPEST:
            raise WeightsFileError(
                f'The file holds dicts that are nested more than {DEEPEST} deep, more than '
                f'{MOST_VALUES:,} values, or a dict that holds itself. Save only the state_dict '
                'again.'
            )
        if isinstance(value, Tensor):
            _require_numbers(name, value)
            tensors[name] = value
    return tensors


def _named_values(
    content: Mapping, path: str = '', depth: int = 1
) -> Iterator[tuple[str, Any, int]]:
    for key, value in content.items():
        name = f'{path}{_text(key)}'
        yield name, value, depth
        if isinstance(value, torch.nn.Module):
            value = value.state_dict()
        if isinstance(value, Mapping):
            yield from _named_values(value, f'{name}.', depth + 1)


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
