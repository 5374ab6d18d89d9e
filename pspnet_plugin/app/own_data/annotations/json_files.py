"""JSON files of annotation tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...images.sources import files_below
from .shapes import AnnotationError


def json_files_with(where: Path, *keys: str) -> Iterator[Path]:
    """The JSON files at a path, a file or a folder, that have all these keys somewhere."""
    files = [where] if where.is_file() else files_below(where, frozenset(['.json']))
    wanted = [f'"{key}"'.encode() for key in keys]
    for file in files:
        if file.suffix.lower() == '.json':
            content = file.read_bytes()
            if all(key in content for key in wanted):
                yield file


def load_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        AnnotationError: it is cut, or no JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f'is cut or no JSON ({error})') from error
