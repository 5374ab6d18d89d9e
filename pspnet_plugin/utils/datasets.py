"""The classes and the samples of datasets, as their configs tell before anything is read."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, Registry

from ..errors import PspnetPluginError
from .config_tree import datasets_within

LOADERS = ('test_dataloader', 'val_dataloader', 'train_dataloader')
GOLDEN_RATIO = 0.618034
Palette = list[list[int]]  # RGB from 0 to 255


def scope_of(cfg: Config) -> str:
    """The scope in which the names of a config are looked up."""
    return cfg.get('default_scope') or 'mmseg'


def datasets_of(cfg: Config, loaders: Iterable[str]) -> Iterator[tuple[str, dict]]:
    """The names of data loaders with the configs of the plain datasets in each.

    Raises:
        PspnetPluginError: one is a list.
    """
    for loader in loaders:
        settings = cfg.get(loader) or {}
        if not isinstance(settings, dict):
            raise PspnetPluginError(
                f'{loader} is a list, of which a run reads none: join its datasets in a '
                'ConcatDataset, or test each with a config of its own'
            )
        for dataset in datasets_within(settings.get('dataset')):
            yield loader, dataset


def registered(kind: Any, registry: Registry, scope: str) -> Any:
    """The class that a ``type`` of a config means; None where it is not known."""
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as scoped:
        return scoped.get(kind)


def metainfo_of(dataset: dict, scope: str = 'mmseg') -> dict[str, Any]:
    """``classes``, ``palette`` and more: the config's ``metainfo`` over that of the class.

    Args:
        dataset: the config of one dataset, no wrapper of others.
    """
    kind = registered(dataset.get('type'), DATASETS, scope)
    found = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
    if isinstance(found.get('classes'), str) and os.path.isfile(found['classes']):
        found['classes'] = list_from_file(found['classes'])  # as mmengine's datasets do
    return found


def without_pipeline(dataset: dict, scope: str = 'mmseg') -> Any:
    """The dataset of MMSegmentation that a config means, built to ask for its samples alone.

    :func:`listed_samples` tells them.

    Returns:
        A ``BaseSegDataset`` that has read nothing yet; None for a dataset of another kind.
    """
    from mmseg.datasets import BaseSegDataset

    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = registered(dataset.get('type'), DATASETS, scope)
        if not (isinstance(kind, type) and issubclass(kind, BaseSegDataset)):
            return None
        return registry.build({**dataset, 'pipeline': [], 'lazy_init': True})


def listed_samples(built: Any) -> list[dict]:
    """A dict for each image of a dataset, with ``img_path`` and, with labels, ``seg_map_path``.

    Raises:
        PspnetPluginError: its list of images is no plain UTF-8.
    """
    try:
        samples = built.load_data_list()
    except UnicodeDecodeError as error:
        raise PspnetPluginError(f'{built.ann_file}: is no UTF-8 ({error}); save it so') from error
    if built._indices is not None:  # which samples of the list a run reads
        built.data_list = samples
        samples = built._get_unserialized_subset(built._indices)
    if samples and '\ufeff' in samples[0]['img_path']:
        raise PspnetPluginError(
            f'{built.ann_file}: begins with a byte-order mark, which mmengine takes for a part of '
            'the first name; save it without (UTF-8)'
        )
    return samples


def class_info(cfg: Config, meta: Mapping[str, Any], count: int) -> tuple[list[str], Palette]:
    """Names and RGB colours of ``count`` classes.

    What the checkpoint says comes first, then the config's datasets; otherwise classes are called
    by their numbers, and colours are spread over the circle of hues.

    Args:
        meta: the ``meta`` entry of the checkpoint.
        count: the number of classes; statements about another number of them do not count, nor
            colours that are none.
    """
    of_datasets = [metainfo_of(dataset, scope_of(cfg)) for _, dataset in datasets_of(cfg, LOADERS)]
    older = {'classes': meta.get('CLASSES'), 'palette': meta.get('PALETTE')}  # mmseg before 1.0
    said = [meta.get('dataset_meta'), older, *of_datasets]
    entries: list[Any] = [entry for entry in said if isinstance(entry, Mapping)]
    names = [entry['classes'] for entry in entries if _are_names(entry.get('classes'), count)]
    palettes = [entry['palette'] for entry in entries if _are_colours(entry.get('palette'), count)]
    palette = palettes[0] if palettes else spread_colours(count)
    classes = [str(name) for name in (names[0] if names else range(count))]
    return classes, [[int(c) for c in colour] for colour in palette]


def _are_names(said: Any, count: int) -> bool:
    return said is not None and not isinstance(said, str) and len(said) == count


def _are_colours(said: Any, count: int) -> bool:
    """Whether it is a palette, (count, 3), of whole numbers from 0 to 255."""
    try:
        colours = np.asarray(said, dtype=float)
    except (TypeError, ValueError):
        return False
    if colours.shape != (count, 3):
        return False
    return bool(((colours >= 0) & (colours <= 255) & (colours % 1 == 0)).all())


def spread_colours(count: int) -> Palette:
    """``count`` colours, RGB from 0 to 255; neighbours differ in hue, and every other is darker."""
    colours = (
        colorsys.hsv_to_rgb(number * GOLDEN_RATIO % 1, 0.75, 0.95 if number % 2 else 0.65)
        for number in range(count)
    )
    return [[round(255 * part) for part in colour] for colour in colours]
