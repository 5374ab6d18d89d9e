"""The names and colours of a model's classes."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ...utils.config_tree import datasets_within
from ...utils.datasets import metainfo_of, scope_of

LOADERS = ('test_dataloader', 'val_dataloader', 'train_dataloader')
GOLDEN_RATIO = 0.618034

Names = list[str]
Palette = list[list[int]]


def class_info(cfg: Config, meta: Mapping[str, Any], count: int) -> tuple[Names, Palette]:
    """Names and RGB colours of ``count`` classes.

    What the checkpoint says comes first, then the config's datasets; otherwise classes are called
    by their numbers, and colours are spread over the circle of hues.

    Args:
        meta: the ``meta`` entry of the checkpoint.
        count: the number of classes; statements about another number of them do not count.
    """
    of_datasets = [
        metainfo_of(dataset, scope_of(cfg))
        for loader in LOADERS
        for dataset in datasets_within((cfg.get(loader) or {}).get('dataset'))
    ]
    older = {'classes': meta.get('CLASSES'), 'palette': meta.get('PALETTE')}  # mmseg before 1.0
    said = [meta.get('dataset_meta'), older, *of_datasets]
    entries = [entry for entry in said if isinstance(entry, Mapping)]
    names = _first(entries, 'classes', count) or [str(number) for number in range(count)]
    palette = _first(entries, 'palette', count) or spread_colours(count)
    return [str(name) for name in names], [[int(c) for c in colour] for colour in palette]


def _first(entries: Sequence[Mapping[str, Any]], key: str, count: int) -> Sequence | None:
    stated = (entry.get(key) for entry in entries)
    return next((values for values in stated if values is not None and len(values) == count), None)


def spread_colours(count: int) -> Palette:
    """``count`` colours, RGB from 0 to 255; neighbours differ in hue, and every other is darker."""
    colours = (
        colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.75, 0.95 if number % 2 else 0.65)
        for number in range(count)
    )
    return [[round(255 * part) for part in colour] for colour in colours]
