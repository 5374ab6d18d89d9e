"""One connection to a server: what is missing of a file, appended to what is here of it."""

from __future__ import annotations

import http.client
import re
import socket
import string
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Optional
from urllib.parse import quote, urlsplit, urlunsplit

TIMEOUT_SECONDS = 30
CHUNK = 1 << 20
Show = Callable[[int, Optional[int]], None]


class BrokenConnectionError(Exception):
    """The connection ended before the file did; what came is kept and continued."""


def without_query(address: str) -> str:
    """What stays of a signed address when it is signed again."""
    return address.partition('?')[0]


class KeptPart:
    """The beginning of a file that is already here, and which version of which file it is."""

    def __init__(self, part: Path, address: str, sha256: str | None):
        self.part = part
        self.version_file = part.with_name(f'{part.name}.version')
        self.origin = without_query(address)
        self.sha256 = sha256

    @property
    def size(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    @property
    def validator(self) -> str:
        """What the server called this version; empty where it did not or the file is another's."""
        known = self.version_file.read_text('utf-8') if self.version_file.is_file() else ''
        origin, _, validator = known.partition('\n')
        return validator if origin == self.origin else ''

    def continued_from(self) -> int:
        """How many bytes need not come again."""
        if not (self.validator or self.sha256):
            # Nothing could tell whether the rest belongs to the same file.
            self.forget()
        return self.size

    def begin(self, response: http.client.HTTPResponse) -> None:
        self.forget()
        self.version_file.write_text(f'{self.origin}\n{_validator(response)}', 'utf-8')

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.version_file.unlink(missing_ok=True)

    def forget_if_empty(self) -> None:
        if not self.size:
            self.forget()


def _validator(response: http.client.HTTPResponse) -> str:
    tag = response.headers.get('ETag', '')
    strong = tag if not tag.startswith('W/') else ''
    return strong or response.headers.get('Last-Modified', '')


def transfer(address: str, kept: KeptPart, headers: Mapping[str, str], show: Show) -> None:
    """Ask for what is missing of the file and append it.

    Raises:
        BrokenConnectionError: the connection ended too early.
        OSError: the server cannot be reached or refuses.
    """
    start = kept.continued_from()
    request = _request(address, start, kept.validator, headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            # There is nothing behind what is here, so what is here is another file.
            kept.forget()
        if error.code in (416, 429, 500, 502, 503, 504):
            raise BrokenConnectionError(reason_of(error)) from error
        raise
    except OSError as error:
        reset = isinstance(getattr(error, 'reason', error), ConnectionResetError)
        if reset or isinstance(error, socket.timeout):
            raise BrokenConnectionError(f'before an answer ({type(error).__name__})') from error
        raise
    with response:
        if response.status == 206 and not _continues(response, start, kept.validator):
            kept.forget()
            raise BrokenConnectionError('the server went on with another file')
        if response.status != 206:
            start = 0
            kept.begin(response)
        _append(response, kept.part, start, _size(response), show)


def _request(
    address: str, start: int, validator: str, headers: Mapping[str, str]
) -> urllib.request.Request:
    parts = urlsplit(address)
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    request = urllib.request.Request(urlunsplit(parts._replace(path=path, query=query)))
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


def _continues(response: http.client.HTTPResponse, asked: int, validator: str) -> bool:
    """Whether a part of a file begins where it was asked for, and is of the version asked for."""
    begins = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    same = not validator or _validator(response) in ('', validator)
    return same and begins is not None and int(begins.group(1)) == asked


def _size(response: http.client.HTTPResponse) -> int | None:
    """The size of the whole file, if it is told."""
    if response.status == 206:
        size = response.headers['Content-Range'].rpartition('/')[2]
    else:
        size = response.headers.get('Content-Length', '')
    return int(size) if size.isdigit() else None


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
                # read() would drop what came before the connection broke.
                chunk = response.read1(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise BrokenConnectionError(
                    f'after {size} bytes ({type(error).__name__})'
                ) from error
            if not chunk:
                break
            file.write(chunk)
            size += len(chunk)
            show(size, total)
    if total is not None and size != total:
        raise BrokenConnectionError(f'after {size} of {total} bytes')


def reason_of(error: Exception) -> str:
    """What went wrong between us and the server, in words."""
    if isinstance(error, urllib.error.HTTPError):
        return f'the server answered {error.code} {str(error.reason).splitlines()[0]}'
    if isinstance(error, (urllib.error.URLError, ConnectionError, TimeoutError)):
        return f'the server cannot be reached ({getattr(error, "reason", error)})'
    return f'{type(error).__name__}: {error}'
