"""An address -> a whole file in the cache of torch's hub.

No light package does that: torch.hub and pooch fetch a broken file anew, pypdl goes on with it
without If-Range, and huggingface_hub serves its own hub and cache alone. So the few lines about
ranges are ours; HTTP is urllib's, the lock filelock's, the progress bar rich's.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch
from filelock import FileLock
from mmengine.logging import print_log
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..errors import UnsafeWeightsError, WeightsDownloadError, WeightsFileError
from .connection import BrokenConnectionError, KeptPart, Show, reason_of, transfer, without_query
from .read import file_format, read_checkpoint

TRIES = 5
PAUSE_SECONDS = 1.0
CHUNK = 1 << 20
# What torch.hub, OpenMMLab and timm put before the file's ending: the beginning of its sha256.
HASH_IN_NAME = re.compile(r'-([0-9A-Fa-f]{8,64})(?:\.[A-Za-z]+)*$')
DATE = re.compile(r'20\d{6}$')


def cache_folder() -> Path:
    """Where torch's hub keeps checkpoints; the environment variable TORCH_HOME moves it."""
    return Path(torch.hub.get_dir()) / 'checkpoints'


def cached_path(address: str, name: str | None = None) -> Path:
    """Where the file of ``address`` is kept: under ``name``, or the last part of the address."""
    try:
        name = name or Path(unquote(urlsplit(address).path)).name
    except ValueError as error:
        raise WeightsDownloadError(f'{address} is no address: {error}.') from error
    if not name:
        raise WeightsDownloadError(f'{address} names no file. Give the address of the file itself.')
    return cache_folder() / name


def hash_in_name(path: Path) -> str | None:
    """The beginning of the sha256 that a file's name carries, None where it carries none."""
    found = HASH_IN_NAME.search(path.name)
    return None if found is None or DATE.match(found.group(1)) else found.group(1)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(
    address: str,
    name: str | None = None,
    sha256: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Path:
    """Return the cached file of ``address``, after downloading it where it is not there yet.

    A broken connection is resumed, in this call and in the next. The file appears under its name
    only when it is whole, has the hash of its name or ``sha256``, and looks like weights. Of
    several processes one downloads and the others wait.

    Raises:
        WeightsDownloadError: with the address, and the path where the file can be put by hand.
    """
    target = cached_path(address, name)
    sha256 = sha256 or hash_in_name(target)
    try:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f'{target}.lock'):
                # Another process may have brought it, from another address, while this one waited.
                if not target.is_file():
                    _download(address, target, sha256, headers or {})
    except OSError as error:
        raise _failure(address, target, f'{target.parent} cannot be written: {error}') from error
    if not sha256:
        _require_same_origin(target, address)
    return target


def _origin_file(target: Path) -> Path:
    return target.with_name(f'{target.name}.origin')


def _require_same_origin(target: Path, address: str) -> None:
    """torch's cache goes by the last part of an address, and many files are named alike."""
    origin = _origin_file(target)
    known = origin.read_text(encoding='utf-8') if origin.is_file() else None
    if known not in (None, without_query(address)):
        raise WeightsDownloadError(
            f'{address}: the cache has a {target.name} that came from {known}. If it is the same '
            f'file, say so by its sha256=...; otherwise remove {target}.'
        )


def _failure(address: str, target: Path, reason: str) -> WeightsDownloadError:
    return WeightsDownloadError(
        f'No weights from {address}: {reason}. If you have the file, put it at {target}.'
    )


def _download(address: str, target: Path, sha256: str | None, headers: Mapping[str, str]) -> None:
    part = target.with_name(f'{target.name}.part')
    kept = KeptPart(part, address, sha256)
    print_log(f'Downloading {address} to {target}', logger='current')
    with _ProgressBar(target.name) as show:
        for attempt in range(1, TRIES + 1):
            try:
                transfer(address, kept, headers, show)
                break
            except BrokenConnectionError as error:
                if attempt == TRIES:
                    kept.forget_if_empty()
                    reason = f'the connection broke {TRIES} times, the last time {error}'
                    raise _failure(address, target, reason) from error
                time.sleep(PAUSE_SECONDS * attempt)
            except (OSError, http.client.HTTPException, ValueError) as error:
                kept.forget_if_empty()
                raise _failure(address, target, reason_of(error)) from error
    flaw = _flaw(part, sha256)
    if flaw:
        kept.forget()
        raise _failure(address, target, flaw)
    kept.version_file.unlink(missing_ok=True)
    _origin_file(target).write_text(without_query(address), encoding='utf-8')
    part.replace(target)


def _flaw(part: Path, sha256: str | None) -> str | None:
    """Why ``part`` is not the whole file that was asked for, None where nothing tells that."""
    try:
        if file_format(part) == 'pickle':
            # The old format tells its length only when it is read.
            read_checkpoint(part)
    except UnsafeWeightsError:
        pass
    except WeightsFileError as error:
        return str(error).replace(str(part), 'what came').rstrip('.')
    if not sha256:
        return _damage(part)
    got = sha256_of(part)
    same = got.startswith(sha256.lower())
    return None if same else f'the file has the sha256 {got} where {sha256} is expected'


def _damage(part: Path) -> str | None:
    """What is damaged in a file without a hash; torch's zip files have a checksum per entry."""
    if not zipfile.is_zipfile(part):
        return None
    try:
        with zipfile.ZipFile(part) as archive:
            entry = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f'what came is damaged ({error})'
    if entry is None:
        return None
    return (
        f'what came is damaged: the checksum of {entry} in it does not agree. If the file was '
        'saved without checksums, give its sha256=...'
    )


class _ProgressBar:
    """A bar that appears with the first byte; called with what has come and what is to come."""

    def __init__(self, name: str):
        columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.bar = Progress(*columns)
        self.task = self.bar.add_task(name)

    def __enter__(self) -> Show:
        return self._show

    def __exit__(self, *error) -> None:
        if self.bar.live.is_started:
            self.bar.stop()

    def _show(self, completed: int, total: int | None) -> None:
        self.bar.start()
        self.bar.update(self.task, completed=completed, total=total)
