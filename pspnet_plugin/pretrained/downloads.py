"""An address -> a whole file in the cache of torch's hub."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Optional
from urllib.parse import unquote, urlsplit

import torch
from filelock import FileLock
from mmengine.logging import print_log
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from .errors import UnsafeWeightsError, WeightsDownloadError, WeightsFileError
from .reading import file_format, read_checkpoint

TRIES = 5
PAUSE_SECONDS = 1.0
TIMEOUT_SECONDS = 30
CHUNK = 1 << 20
# What torch.hub, OpenMMLab and timm put before the file's ending: the beginning of its sha256.
HASH_IN_NAME = re.compile(r'-([0-9a-f]{8,64})(?:\.[A-Za-z]+)*$')
DATE = re.compile(r'20\d{6}$')
Show = Callable[[int, Optional[int]], None]


class _InterruptedError(Exception):
    """The connection ended before the file did; what came is kept and continued."""


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
    if target.is_file():
        _require_same_origin(target, address, sha256)
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{target}.lock'):
            if not target.is_file():
                _download(address, target, sha256, headers or {})
    except OSError as error:
        raise _failure(address, target, f'{target.parent} cannot be written: {error}') from error
    return target


def _origin_file(target: Path) -> Path:
    return target.with_name(f'{target.name}.origin')


def _require_same_origin(target: Path, address: str, sha256: str | None) -> None:
    """torch's cache goes by the last part of an address, and many files are named alike."""
    origin = _origin_file(target)
    if sha256 or not origin.is_file():
        return
    known = origin.read_text(encoding='utf-8')
    if known != address.partition('?')[0]:
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
    kept = _Kept(part, sha256)
    print_log(f'Downloading {address} to {target}', logger='current')
    with _ProgressBar(target.name) as show:
        for attempt in range(1, TRIES + 1):
            try:
                _transfer(address, kept, headers, show)
                break
            except _InterruptedError as error:
                if attempt == TRIES:
                    reason = f'the connection broke {TRIES} times, the last time {error}'
                    raise _failure(address, target, reason) from error
                time.sleep(PAUSE_SECONDS * attempt)
            except (OSError, http.client.HTTPException, ValueError) as error:
                kept.forget_if_empty()
                raise _failure(address, target, _reason(error)) from error
    _check(part, address, target, sha256)
    kept.forget_validator()
    _origin_file(target).write_text(address.partition('?')[0], encoding='utf-8')
    part.replace(target)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f'the server answered {error.code} {str(error.reason).splitlines()[0]}'
    if isinstance(error, (urllib.error.URLError, ConnectionError, TimeoutError)):
        return f'the server cannot be reached ({getattr(error, "reason", error)})'
    return f'{type(error).__name__}: {error}'


def _check(part: Path, address: str, target: Path, sha256: str | None) -> None:
    """Remove ``part`` and raise where it is not the whole file that was asked for."""
    try:
        if file_format(part) == 'pickle':
            # The old format tells its length only when it is read.
            read_checkpoint(part)
    except UnsafeWeightsError:
        pass
    except WeightsFileError as error:
        part.unlink()
        reason = str(error).replace(str(part), 'what came').rstrip('.')
        raise _failure(address, target, reason) from error
    got = sha256_of(part) if sha256 else ''
    if sha256 and not got.startswith(sha256.lower()):
        part.unlink()
        reason = f'the file has the sha256 {got} where {sha256} is expected'
        raise _failure(address, target, reason)


class _ProgressBar:
    """A bar that appears with the first byte; called with what has come and what is to come."""

    def __init__(self, name: str):
        columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.bar = Progress(*columns)
        self.task = self.bar.add_task(name)

    def __enter__(self) -> Show:
        return self._show

    def __exit__(self, *error) -> None:
        self.bar.stop()

    def _show(self, completed: int, total: int | None) -> None:
        self.bar.start()
        self.bar.update(self.task, completed=completed, total=total)


# --- one connection -----------------------------------------------------------------------------


class _Kept:
    """The beginning of a file that is already here, and what the server called that version."""

    def __init__(self, part: Path, sha256: str | None):
        self.part = part
        self.validator_file = part.with_name(f'{part.name}.version')
        if part.is_file() and not (self.validator or sha256):
            # Nothing could tell whether the rest belongs to the same file.
            part.unlink()

    @property
    def size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    @property
    def validator(self) -> str:
        return self.validator_file.read_text() if self.validator_file.is_file() else ''

    def remember(self, response: http.client.HTTPResponse) -> None:
        tag = response.headers.get('ETag', '')
        strong = tag if tag and not tag.startswith('W/') else ''
        validator = strong or response.headers.get('Last-Modified', '')
        if validator:
            self.validator_file.write_text(validator)

    def forget_validator(self) -> None:
        self.validator_file.unlink(missing_ok=True)

    def forget_if_empty(self) -> None:
        if not self.size:
            self.part.unlink(missing_ok=True)
            self.forget_validator()


def _transfer(address: str, kept: _Kept, headers: Mapping[str, str], show: Show) -> None:
    """Ask for what is missing of the file and append it.

    Raises:
        _InterruptedError: the connection ended too early.
        OSError: the server cannot be reached or refuses.
    """
    start = kept.size
    try:
        response = urllib.request.urlopen(
            _request(address, start, kept.validator, headers), timeout=TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            # There is nothing behind what is here, so what is here is another file.
            kept.part.unlink(missing_ok=True)
            raise _InterruptedError('the server has no such part of the file') from error
        if error.code in (429, 500, 502, 503, 504):
            raise _InterruptedError(_reason(error)) from error
        raise
    with response:
        start, total = _extent(response, start)
        if start == 0:
            kept.remember(response)
        _append(response, kept.part, start, total, show)


def _request(
    address: str, start: int, validator: str, headers: Mapping[str, str]
) -> urllib.request.Request:
    request = urllib.request.Request(address)
    request.add_header('User-Agent', 'pspnet_plugin')
    request.add_header('Accept-Encoding', 'identity')
    for key, value in headers.items():
        # Not to be shown to where the server redirects.
        request.add_unredirected_header(key, value)
    if start:
        request.add_header('Range', f'bytes={start}-')
        if validator:
            request.add_header('If-Range', validator)
    return request


def _extent(response: http.client.HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Where the answer's first byte belongs, and the size of the whole file if it is told."""
    found = re.match(r'bytes (\d+)-\d+/(\d+|\*)', response.headers.get('Content-Range', ''))
    if response.status == 206 and found and int(found.group(1)) == asked:
        return asked, None if found.group(2) == '*' else int(found.group(2))
    length = response.headers.get('Content-Length', '')
    return 0, int(length) if length.isdigit() else None


def _append(
    response: http.client.HTTPResponse, part: Path, start: int, total: int | None, show: Show
) -> None:
    size = start
    with open(part, 'r+b' if start else 'wb') as file:
        file.truncate(start)
        file.seek(start)
        show(size, total)
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _InterruptedError(f'after {size} bytes ({type(error).__name__})') from error
            if not chunk:
                break
            file.write(chunk)
            size += len(chunk)
            show(size, total)
    if total is not None and size != total:
        raise _InterruptedError(f'after {size} of {total} bytes')
