"""Why torch did not read a checkpoint, in one line and with a way out."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path

from .checkpoint_zip import is_zip


def why_unreadable(
    path: Path, error: Exception, allow_name: str, allow_all: str
) -> tuple[str, bool]:
    """Why torch did not read a checkpoint, as the end of a sentence about it.

    Args:
        path: the file, which need not be on this machine.
        error: what torch raised.
        allow_name: how a user lets the file hold the one class or function that was refused.
        allow_all: how a user lets the file run any code.

    Returns:
        The reason, and whether it is that the file holds more than data; otherwise it is broken.
    """
    refused = isinstance(error, pickle.UnpicklingError)
    name = refused_name(error) if refused else None
    if name:
        return (
            f'holds {name}, which is not data: reading it could run code. If you trust whoever '
            f'made the file, {allow_name}; otherwise save only its state_dict again.'
        ), True
    if 'TorchScript' in str(error):
        return 'is a TorchScript program, not a state dict: save its state_dict() instead.', True
    if path.suffix.lower() == '.onnx':
        return 'is an exported network: name the .pth file that it was exported from.', True
    protocol = pickle_protocol(path)
    if refused and 3 < protocol <= pickle.HIGHEST_PROTOCOL:
        return (
            f'was saved with pickle_protocol={protocol}, which torch reads only where the file may '
            'run code. Save it again with pickle_protocol=2, or if you trust whoever made the '
            f'file, {allow_all}.'
        ), True
    content = _other_content(path)
    if content:
        return f'is {content}.', False
    return f'is cut or broken ({reason_of(error)}).', False


def _other_content(path: Path) -> str | None:
    """What stands in a file instead of weights, as far as its beginning tells."""
    if not os.path.isfile(path):
        return None
    with open(path, 'rb') as file:
        start = file.read(256)
    text = start.lstrip().lower()
    if not start:
        return 'empty'
    if text.startswith((b'<!doctype', b'<html', b'<?xml')):
        return 'a web page: the address asks for a login, or is the page about the file'
    if text.startswith(b'version https://git-lfs'):
        return 'a Git LFS pointer: run "git lfs pull" where it came from'
    if all(byte in b'\t\n\r' or byte >= 32 for byte in start):
        return f'a text that begins with {start[:40].decode("utf-8", "replace")!r}'
    return None


def refused_name(error: Exception) -> str | None:
    """The function or class that torch refused to call, None where the error says no such thing."""
    pattern = r"GLOBAL (\S+)|[Uu]nsupported class (\S+)|but got <class '(\S+?)'>"
    found = re.search(pattern, str(error))
    return next(filter(None, found.groups())) if found else None


def pickle_protocol(path: Path) -> int:
    """The pickle protocol that a file of ``torch.save`` announces, in either format; 0 for none."""
    start = b''
    if os.path.isfile(path) and is_zip(path):  # os.path also takes addresses that are too long
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith('/data.pkl'):
                    with archive.open(name) as entry:
                        start = entry.read(2)
    elif os.path.isfile(path):
        with open(path, 'rb') as file:
            start = file.read(2)
    return start[1] if len(start) == 2 and start[0] == 0x80 else 0


def reason_of(error: Exception) -> str:
    """An error in one line, without torch's advice to let the file run code."""
    lines = str(error).rpartition('WeightsUnpickler error:')[2].strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
