"""A reference such as ``torchvision://resnet50`` -> a file on this machine."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import mmengine
import yaml

from ..errors import WeightsFileError, WeightsReferenceError
from .download import fetch, hash_in_name, sha256_of


@dataclass(frozen=True)
class Address:
    """Where weights can be downloaded; ``name`` is the cache's name for them where it is not the
    last part of the address, ``headers`` go to that server only."""

    url: str
    name: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def locate(reference: str, sha256: str | None = None) -> tuple[Path, str]:
    """The file that ``reference`` names, downloaded if need be, and its sha256.

    Args:
        reference: a path, or ``SCHEME://…`` with one of :data:`SCHEMES`.
        sha256: the hash that the file must have, or its first digits, 8 or more.

    Raises:
        WeightsReferenceError: the reference names nothing, or ``sha256`` is no hash.
        WeightsDownloadError: the file cannot be downloaded.
        WeightsFileError: the file on disk is missing, or has another hash.
    """
    # A config's 57934424 is a number.
    sha256 = None if sha256 is None else str(sha256)
    if sha256 and not re.fullmatch(r'[0-9A-Fa-f]{8,64}', sha256):
        raise WeightsReferenceError(
            f'sha256={sha256!r} is no hash: give its 64 hexadecimal digits, or the first 8 or more.'
        )
    found = resolve(reference)
    downloaded = isinstance(found, Address)
    path = fetch(found.url, found.name, sha256, found.headers) if downloaded else found
    if not path.is_file():
        raise WeightsFileError(_not_a_file(path, reference))
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise WeightsFileError(f'{path} cannot be read: {error.strerror}.') from error
    expected = sha256 or (hash_in_name(path) if downloaded else None)
    if expected and not digest.startswith(expected.lower()):
        raise WeightsFileError(
            f'{path} has the sha256 {digest} where {expected} is expected. Remove the file to have '
            'it fetched again, or correct sha256.'
        )
    return path, digest


def _not_a_file(path: Path, reference: str) -> str:
    if path.is_dir():
        return f'{path} is a folder. Name the file of weights inside it.'
    beside = [p.name for p in path.parent.glob('*')] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=3)
    hint = f' Beside it are {", ".join(near)}.' if near else ''
    return f'There is no file {path.absolute()} (checkpoint={reference!r}).{hint}'


def resolve(reference: str) -> Path | Address:
    """What ``reference`` names, before anything is downloaded."""
    scheme, separator, rest = str(reference).partition('://')
    if not separator:
        return Path(reference).expanduser()
    if scheme in ('http', 'https'):
        return Address(reference)
    if scheme not in SCHEMES:
        raise WeightsReferenceError(
            f'{reference!r} has an unknown scheme. Use a path, http://, https://, '
            f'{", ".join(f"{known}://" for known in SCHEMES)}.'
        )
    return SCHEMES[scheme](rest, reference)


def _unknown_name(reference: str, name: str, known: Iterable[str], where: str) -> Exception:
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f' Did you mean {" or ".join(near)}?' if near else ''
    return WeightsReferenceError(f'{reference!r}: {where} has no {name!r}.{hint}')


def _needs_package(reference: str, package: str) -> Exception:
    return WeightsReferenceError(
        f'{reference!r} needs the package {package}: run "pip install {package}".'
    )


# --- one function per scheme --------------------------------------------------------------------


def _torchvision(name: str, reference: str) -> Address:
    """``MODEL`` is what it has always been in OpenMMLab; ``MODEL.WEIGHTS`` is any weights entry."""
    first_weights = _hub_list('torchvision_0.12.json')
    if name in first_weights:
        return Address(first_weights[name])
    model, _, weights = name.partition('.')
    if importlib.util.find_spec('torchvision') is None:
        raise _needs_package(reference, 'torchvision')
    models = importlib.import_module('torchvision.models')
    model = re.sub(r'(.+)_quantizedweights$', r'quantized_\1_weights', model.lower())
    model = model.removesuffix('_weights')
    if model not in models.list_models():
        raise _unknown_name(reference, model, models.list_models(), 'torchvision')
    entries = {entry.name: entry for entry in models.get_model_weights(model)}
    if not entries:
        raise WeightsReferenceError(f'{reference!r}: torchvision has no weights for {model}.')
    wanted = weights.upper() or 'DEFAULT'
    if wanted == 'DEFAULT':
        return Address(models.get_model_weights(model).DEFAULT.url)
    if wanted not in entries:
        raise _unknown_name(reference, wanted, entries, f'{model} of torchvision')
    return Address(entries[wanted].url)


def _open_mmlab(name: str, reference: str) -> Address:
    known = _hub_list('openmmlab.json')
    name = _hub_list('deprecated.json').get(name, name)
    if name not in known:
        raise _unknown_name(reference, name, known, "mmengine's list of OpenMMLab weights")
    return Address(known[name])


def _hub_list(file: str) -> dict[str, str]:
    return mmengine.load(os.path.join(mmengine.__path__[0], 'hub', file))


def _mmseg(name: str, reference: str) -> Address:
    """A name of MMSegmentation's model zoo, out of the metafiles that it is installed with."""
    spec = importlib.util.find_spec('mmseg')
    if spec is None:
        raise _needs_package(reference, 'mmsegmentation')
    folder = Path(spec.submodule_search_locations[0]) / '.mim' / 'configs'
    if not folder.is_dir():
        # A checkout that was installed as editable.
        folder = folder.parents[2] / 'configs'
    known: list[str] = []
    for file in sorted(folder.glob('*/metafile.yaml')):
        text = file.read_text(encoding='utf-8')
        # Above them stands a collection, with a name of its own.
        names = re.findall(r'^- Name: (\S+)$', text.partition('Models:\n')[2], re.MULTILINE)
        known += names
        if name in names:
            models = [m for m in yaml.safe_load(text)['Models'] if m['Name'] == name]
            addresses = [model['Weights'] for model in models]
            if len(addresses) > 1:
                raise WeightsReferenceError(
                    f'{reference!r}: MMSegmentation has given this name to several models. Take '
                    f'the address of the one you mean: {" or ".join(addresses)}'
                )
            return Address(addresses[0])
    raise _unknown_name(reference, name, known, "MMSegmentation's model zoo")


def _timm(name: str, reference: str) -> Path | Address:
    if importlib.util.find_spec('timm') is None:
        raise _needs_package(reference, 'timm')
    timm = importlib.import_module('timm')
    known = timm.list_pretrained()
    if name not in known and ('.' in name or not timm.is_model(name)):
        raise _unknown_name(reference, name, known, 'timm')
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.hf_hub_id:
        file = config.hf_hub_filename or 'model.safetensors'
        return _hugging_face(f'{config.hf_hub_id}/{file}', reference)
    if config is not None and config.url:
        return Address(config.url)
    raise WeightsReferenceError(f'{reference!r}: timm has no weights for {name}.')


def _hugging_face(name: str, reference: str) -> Path | Address:
    """A file of a Hugging Face repository: out of its own cache where it lies there already."""
    parts = name.split('/')
    if len(parts) < 3 or not all(parts):
        raise WeightsReferenceError(f'{reference!r}: write hf://ORGANISATION/REPOSITORY/FILE.')
    repository, _, revision = '/'.join(parts[:2]).partition('@')
    file = '/'.join(parts[2:])
    headers = {}
    if importlib.util.find_spec('huggingface_hub') is not None:
        hub = importlib.import_module('huggingface_hub')
        try:
            cached = hub.try_to_load_from_cache(repository, file, revision=revision or None)
        except ValueError as error:
            raise WeightsReferenceError(f'{reference!r}: {error}') from error
        if isinstance(cached, str):
            return Path(cached)
        token = hub.get_token()
        headers = {'Authorization': f'Bearer {token}'} if token else {}
    endpoint = os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')
    url = f'{endpoint}/{repository}/resolve/{revision or "main"}/{file}'
    # Files of different repositories have the same name, so the cache needs the longer one.
    unique = '--'.join(filter(None, [*repository.split('/'), revision, *parts[2:]]))
    return Address(url, unique, headers)


def _package(name: str, reference: str) -> Path:
    module, _, inside = name.partition('/')
    try:
        spec = importlib.util.find_spec(module) if module and inside else None
    except (ImportError, ValueError):
        spec = None
    if not (module and inside):
        raise WeightsReferenceError(f'{reference!r}: write package://MODULE/PATH/IN/IT.')
    if spec is None:
        raise WeightsReferenceError(
            f'{reference!r}: no Python package {module} is installed. Install the distribution '
            f'that contains it, such as "pip install {module.replace("_", "-")}".'
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for folder in folders:
        if (folder / inside).is_file():
            return folder / inside
    weights = (p.relative_to(f) for f in folders for p in f.rglob('*') if p.is_file())
    known = sorted(str(p) for p in weights if p.suffix in WEIGHT_SUFFIXES)
    hint = f' Its files of weights: {", ".join(known[:5])}.' if known else ''
    raise WeightsReferenceError(f'{reference!r}: {module} has no file {inside}.{hint}')


WEIGHT_SUFFIXES = ('.pth', '.pt', '.safetensors', '.bin', '.ckpt')
SCHEMES: dict[str, Callable[[str, str], Path | Address]] = {
    'torchvision': _torchvision,
    'timm': _timm,
    'open-mmlab': _open_mmlab,
    'openmmlab': _open_mmlab,
    'mmseg': _mmseg,
    'hf': _hugging_face,
    'package': _package,
}
