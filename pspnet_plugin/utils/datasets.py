"""What the config of a dataset tells before the dataset is read: its classes and its samples."""

from __future__ import annotations

import os
from typing import Any

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS, Registry


def scope_of(cfg: Config) -> str:
    """The scope in which the names of a config are looked up."""
    return cfg.get('default_scope') or 'mmseg'


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

    ``load_data_list()`` of it gives a dict for each image, with ``img_path`` and, where there are
    labels, ``seg_map_path``.

    Returns:
        A ``BaseSegDataset`` that has read nothing yet; None for a dataset of another kind.
    """
    from mmseg.datasets import BaseSegDataset

    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = registered(dataset.get('type'), DATASETS, scope)
        if not (isinstance(kind, type) and issubclass(kind, BaseSegDataset)):
            return None
        return registry.build({**dataset, 'pipeline': [], 'lazy_init': True})
