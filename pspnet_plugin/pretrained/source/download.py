"""What a reference names -> the whole file, in the cache of torch's hub or of Hugging Face's."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pooch
import requests
import torch
from filelock import FileLock

from ...utils.checkpoint_zip import has_checksums
from ...utils.text import did_you_mean, one_line
from ..errors import PretrainedWeightsError, UnsafeWeightsError, WeightsFileError
from .read import file_format, read_checkpoint
from .schemes import Address, HubFile, Place

RETRIES = 3  # pooch waits 1, 2 and 3 seconds before them
BUSY = (408, 429, 500, 502, 503, 504)  # what a server answers when it is worth asking again
# What torch.hub, OpenMMLab and timm put before a file's suffix: the beginning of its sha256.
# Eight digits can be a date as well.
HASH_IN_NAME = re.compile(r'-(?!20\d{6}\b)([0-9A-Fa-f]{8,64})(?:\.[A-Za-z]+)*$')


def local_file(place: Place, reference: str, sha256: str | None = None) -> tuple[Path, str]:
    """The file at ``place``, downloaded where it is not on this machine yet, and its sha256.

    A downloaded file appears under its name only when it is whole, has the hash in its name or
    ``sha256``, and looks like weights. Of several processes one downloads and the others wait.
    Errors name the address, and the path where the file can be put by hand.
    """
    if isinstance(place, Address):
        in_name = HASH_IN_NAME.search(place.name)
        sha256 = sha256 or (in_name and in_name.group(1))
    path = _fetch(place, sha256) if isinstance(place, Address) else place
    if not path.is_file():
        raise WeightsFileError(_not_a_file(path, reference))
    try:
        return path, checked_sha256(path, sha256)
    except OSError as error:
        raise WeightsFileError(f'{path} cannot be read: {error.strerror}.') from error
    except WeightsFileError as error:
        raise WeightsFileError(
            f'{error} Remove {path.resolve()} to have it fetched again, or correct sha256.'
        ) from error


def cached_path(place: Address) -> Path:
    """Where torch's hub keeps a file, also one that was put there by hand; moved by TORCH_HOME."""
    return Path(torch.hub.get_dir()) / 'checkpoints' / place.name


def checked_sha256(path: Path, expected: str | None = None) -> str:
    """The sha256 of a file, as 64 hexadecimal digits; it must begin with ``expected``."""
    digest = pooch.file_hash(str(path), alg='sha256')
    if expected and not digest.startswith(expected.lower()):
        raise WeightsFileError(f'{path} has the sha256 {digest} where {expected} is expected.')
    return digest


def _not_a_file(path: Path, reference: str) -> str:
    if path.is_dir():
        return f'{path} is a folder. Name the file of weights inside it.'
    if path.is_symlink():
        return f'{path} is a link to {os.readlink(path)}, which does not exist. Name a file itself.'
    beside = [p.name for p in path.parent.glob('*')] if path.parent.is_dir() else []
    missing = f'There is no file {path.absolute()} (checkpoint={reference!r}).'
    return missing + did_you_mean(path.name, beside)


# --- downloads ----------------------------------------------------------------------------------


def _fetch(place: Address, expected: str | None) -> Path:
    target = cached_path(place)
    try:
        if not target.is_file():
            if isinstance(place, HubFile):
                return _from_hub(place)
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f'{target}.lock'):
                # Another process may have downloaded it while this one waited.
                if not target.is_file():
                    _download(place, target, expected)
    except OSError as error:
        raise _failure(place, f'{target.parent} cannot be written ({error})') from error
    if not expected:
        _require_same_origin(place, target)
    return target


def _failure(place: Address, reason: str) -> PretrainedWeightsError:
    return PretrainedWeightsError(
        f'No weights from {place.url}: {reason.rstrip(".")}. If you have the file, put it at '
        f'{cached_path(place)}.'
    )


def _from_hub(place: HubFile) -> Path:
    import huggingface_hub as hub

    try:
        # A file that is in its cache needs no network.
        cached = hub.try_to_load_from_cache(place.repository, place.file, revision=place.revision)
        if not isinstance(cached, str):
            cached = hub.hf_hub_download(place.repository, place.file, revision=place.revision)
        return Path(cached)
    except Exception as error:  # its HTTP client is another one in each version
        raise _failure(place, one_line(error)) from error


def _download(place: Address, target: Path, expected: str | None) -> None:
    def transfer(url: str, temporary: str, _: object) -> None:
        # pooch lets nobody else read the temporary file; a new one has the usual permissions.
        Path(temporary).unlink()
        try:
            pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 16)(url, temporary, None)
            _check_whole(Path(temporary), expected)
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code in BUSY:
                raise  # pooch tries again
            raise _failure(place, str(error)) from error
        except WeightsFileError as error:
            raise _failure(place, str(error).replace(temporary, 'what came')) from error
        _origin_file(target).write_text(_without_query(url), encoding='utf-8')

    downloads = pooch.create(
        path=target.parent,
        base_url='',
        registry={target.name: None},
        urls={target.name: place.url},
        retry_if_failed=RETRIES,
    )
    try:
        downloads.fetch(target.name, downloader=transfer)
    except (requests.RequestException, ValueError) as error:
        raise _failure(place, one_line(error)) from error


def _check_whole(file: Path, expected: str | None) -> None:
    """Raise WeightsFileError unless ``file`` is the whole file of weights that was asked for."""
    kind = file_format(file)
    if expected:
        checked_sha256(file, expected)
        return
    with contextlib.suppress(UnsafeWeightsError):  # which is for those who load it to refuse
        read_checkpoint(file)
    if kind == 'zip' and not has_checksums(file):
        raise WeightsFileError(f'{file} was saved without checksums, give its sha256=...')


# --- where a cached file came from --------------------------------------------------------------


def _require_same_origin(place: Address, target: Path) -> None:
    """torch's cache goes by the last part of an address, and many files are named alike."""
    origin = _origin_file(target)
    known = origin.read_text(encoding='utf-8') if origin.is_file() else None
    if known not in (None, _without_query(place.url)):
        raise PretrainedWeightsError(
            f'{place.url}: the cache has a {target.name} that came from {known}. If it is the same '
            f'file, say so by its sha256=...; otherwise remove {target}.'
        )


def _origin_file(target: Path) -> Path:
    return target.with_name(f'{target.name}.origin')


def _without_query(url: str) -> str:
    """An address without its signature, which is a secret and another one each time."""
    return url.partition('?')[0]
