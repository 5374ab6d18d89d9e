"""Parts of a config, wherever they are nested."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def datasets_within(dataset: dict | None) -> Iterator[dict]:
    """The configs of the plain datasets inside wrappers such as ConcatDataset and RepeatDataset."""
    if not dataset:
        return
    inner = dataset.get('datasets') or dataset.get('dataset')
    if inner is None:
        yield dataset
    for wrapped in [inner] if isinstance(inner, dict) else inner or ():
        yield from datasets_within(wrapped)


def dicts_within(node: Any) -> Iterator[dict]:
    """Every dictionary in a nested config, ``node`` included."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from dicts_within(value)
