"""JSON files of annotation tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...images.sources import files_at
from .shapes import AnnotationError, ImageFiles


def json_files_with(where: Path, images: ImageFiles, keys: Sequence[str]) -> list[Path]:
    """The JSON files at a path, a file or a folder, that have all these keys somewhere.

    Where there are some, files that are cut or no JSON are listed too: they may have been such.
    """
    files = files_at(where, '.json')
    found = {file for file in files if has_keys(file, keys)}
    return [file for file in files if file in found or is_broken(file)] if found else []


def has_keys(file: Path, keys: Sequence[str]) -> bool:
    content = file.read_bytes()
    return all(f'"{key}"'.encode() in content for key in keys)


def is_broken(file: Path) -> bool:
    """Whether a file is cut or no JSON."""
    try:
        load_json(file)
    except AnnotationError:
        return True
    return False


def load_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        AnnotationError: it is cut, or no JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f'is cut or no JSON ({error})') from error
