"""Where a file is -> the whole file, in the cache of torch's hub or of Hugging Face's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pooch
import requests
import torch
from filelock import FileLock

from ...utils.text import one_line
from ..errors import PretrainedWeightsError, WeightsFileError
from .read import INDEX, require_whole, shards_of
from .schemes import Address

RETRIES = 3  # pooch waits 1, 2 and 3 seconds before them
BUSY = (408, 429, 500, 502, 503, 504)  # what a server answers when it is worth asking again
# What torch.hub, OpenMMLab and timm put before a file's suffix: the beginning of its sha256.
# Eight digits can be a date as well.
HASH_IN_NAME = re.compile(r'-(?!20\d{6}\b)([0-9A-Fa-f]{8,64})(?:\.[A-Za-z]+)*$')


def fetch(location: Path | Address, sha256: str | None = None) -> tuple[Path, str]:
    """The file at ``location``, downloaded where it is not on this machine yet, and its sha256.

    A downloaded file appears under its name only when it is whole: it has the hash in its name or
    ``sha256``, or ``require_whole`` raises nothing for it. Of several processes one downloads and
    the others wait. Errors name the address, and the path where the file can be put by hand.
    """
    if isinstance(location, Address):
        in_name = HASH_IN_NAME.search(location.name)
        sha256 = sha256 or (in_name and in_name.group(1))
        path = _cached(location, sha256)
    else:
        path = location
    if sha256 and path.name.endswith(INDEX):
        raise WeightsFileError(
            f'{path} is an index, whose sha256 says nothing of the weights. Leave sha256 out, or '
            'join the shards into one file.'
        )
    try:
        return path, checked_sha256(path, sha256)
    except OSError as error:
        raise WeightsFileError(f'{path} cannot be read: {error.strerror}.') from error
    except WeightsFileError as error:
        raise WeightsFileError(
            f'{error} Remove {path.resolve()} to have it fetched again, or correct sha256.'
        ) from error


def cached_path(address: Address) -> Path:
    """Where torch's hub keeps a file, also one that was put there by hand; moved by TORCH_HOME."""
    return Path(torch.hub.get_dir()) / 'checkpoints' / address.name


def checked_sha256(path: Path, expected: str | None = None) -> str:
    """The sha256 of a file, as 64 hexadecimal digits; it must begin with ``expected``."""
    digest = pooch.file_hash(str(path), alg='sha256')
    if expected and not digest.startswith(expected.lower()):
        raise WeightsFileError(f'{path} has the sha256 {digest} where {expected} is expected.')
    return digest


def _cached(address: Address, expected: str | None) -> Path:
    target = cached_path(address)

    def check(file: Path) -> None:
        checked_sha256(file, expected) if expected else require_whole(file)

    try:
        if not target.is_file():
            if address.hub:
                return _from_hub(address, *address.hub)
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f'{target}.lock'):
                # Another process may have downloaded it while this one waited.
                if not target.is_file():
                    _download(address, target, check)
    except OSError as error:
        raise _failure(address, f'{target.parent} cannot be written ({error})') from error
    if not expected:
        _require_same_origin(address, target)
    return target


def _from_hub(address: Address, repository: str, file: str, revision: str | None) -> Path:
    import huggingface_hub as hub

    try:
        # A file that is in its cache needs no network.
        cached = hub.try_to_load_from_cache(repository, file, revision=revision)
        if not isinstance(cached, str):
            cached = hub.hf_hub_download(repository, file, revision=revision)
    except Exception as error:  # its HTTP client is another one in each version
        raise _failure(address, one_line(error)) from error
    for shard in shards_of(Path(cached)) if file.endswith(INDEX) else ():
        folder = file.removesuffix(Path(file).name)
        _from_hub(address, repository, f'{folder}{shard.name}', revision)
    return Path(cached)


def _download(address: Address, target: Path, check: Callable[[Path], object]) -> None:
    def transfer(url: str, temporary: str, _: object) -> None:
        # pooch lets nobody else read the temporary file; a new one has the usual permissions.
        Path(temporary).unlink()
        try:
            pooch.HTTPDownloader(progressbar=True, chunk_size=1 << 16)(url, temporary, None)
            check(Path(temporary))
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code in BUSY:
                raise  # pooch tries again
            raise _failure(address, str(error)) from error
        except WeightsFileError as error:
            raise _failure(address, str(error).replace(temporary, 'what came')) from error
        _origin_file(target).write_text(_without_query(url), encoding='utf-8')

    downloads = pooch.create(
        path=target.parent,
        base_url='',
        registry={target.name: None},
        urls={target.name: address.url},
        retry_if_failed=RETRIES,
    )
    try:
        downloads.fetch(target.name, downloader=transfer)
    except (requests.RequestException, ValueError) as error:
        raise _failure(address, one_line(error)) from error


def _failure(address: Address, reason: str) -> PretrainedWeightsError:
    return PretrainedWeightsError(
        f'No weights from {address.url}: {reason.rstrip(".")}. If you have the file, put it at '
        f'{cached_path(address)}. Training can also start from another file, from None (random '
        'weights), or from a backbone whose weights come in a package, as pspnet init --backbone '
        'efficientnet_lite0 writes it.'
    )


# --- where a cached file came from --------------------------------------------------------------


def _require_same_origin(address: Address, target: Path) -> None:
    """torch's cache goes by the last part of an address, and many files are named alike."""
    origin = _origin_file(target)
    known = origin.read_text(encoding='utf-8') if origin.is_file() else None
    if known not in (None, _without_query(address.url)):
        raise PretrainedWeightsError(
            f'{address.url}: the cache has a {target.name} that came from {known}. If it is the '
            f'same file, say so by its sha256=...; otherwise remove {target}.'
        )


def _origin_file(target: Path) -> Path:
    return target.with_name(f'{target.name}.origin')


def _without_query(url: str) -> str:
    """An address without its signature, which is a secret and another one each time."""
    return url.partition('?')[0]
