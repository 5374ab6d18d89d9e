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


def parts_within(model: dict, name: str = '') -> Iterator[tuple[str, dict]]:
    """The config of each part of a model, by the name of the part; that of the whole first."""
    if 'type' in model:
        yield name, model
    for key, value in model.items():
        if isinstance(value, dict):
            yield from parts_within(value, f'{name}.{key}' if name else key)


def init_cfgs(init_cfg: Any) -> list[dict]:
    """What an ``init_cfg`` holds for mmengine, one or several, as a list."""
    # Modules of other packages call something of their own so, such as {'std': 0.02}.
    several = init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]
    return [cfg for cfg in several if isinstance(cfg, dict) and 'type' in cfg]


def kind_of(cfg: dict) -> str:
    """The name of what a config builds, without a scope; its type may be a class."""
    return str(getattr(cfg['type'], '__name__', cfg['type'])).rpartition('.')[2]
