"""Whether heads, datasets and label checks of a config speak of the same number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS

from ...heads.chunked_loss import ChunkedLossMixin
from ...utils.config_tree import datasets_within, dicts_within
from ...utils.datasets import metainfo_of, registered, scope_of

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def head_classes(cfg: Config) -> list[tuple[str, int]]:
    """The decode heads and how many classes each tells apart.

    Heads with a loss of their own, such as the one for the borders of objects in STDC, may mean
    something else by their classes and are left out.
    """
    found = []
    for name in ('decode_head', 'auxiliary_head'):
        heads = cfg.model.get(name) or []
        for number, head in enumerate([heads] if isinstance(heads, dict) else heads):
            if 'num_classes' in head and has_the_usual_loss(head.get('type'), cfg):
                label = name if isinstance(heads, dict) else f'{name}[{number}]'
                found.append((label, head['num_classes']))
    return found


def has_the_usual_loss(kind: Any, cfg: Config) -> bool:
    """Whether a head compares its classes with the labels as mmseg's ``BaseDecodeHead`` does."""
    loss = getattr(registered(kind, MODELS, scope_of(cfg)), 'loss_by_feat', None)
    return loss in (BaseDecodeHead.loss_by_feat, ChunkedLossMixin.loss_by_feat)


def class_problems(cfg: Config, loaders: Sequence[str] = LOADERS) -> list[str]:
    """Where the heads, the datasets and ``CheckLabels`` do not have the same number of classes."""
    heads = head_classes(cfg)
    problems = []
    for loader in loaders:
        for dataset in datasets_within((cfg.get(loader) or {}).get('dataset')):
            names = metainfo_of(dataset, scope_of(cfg)).get('classes')
            for head, count in heads:
                if names is not None and len(names) != count:
                    problems.append(
                        f'model.{head}.num_classes is {count}, but the dataset of {loader} has '
                        f'{len(names)} classes: {", ".join(map(str, names[:8]))}'
                    )
            for step in dicts_within(dataset.get('pipeline')):
                wanted = heads[0][1] if heads else step.get('num_classes')
                if step.get('type') == 'CheckLabels' and step['num_classes'] != wanted:
                    problems.append(
                        f'CheckLabels in {loader} has num_classes={step["num_classes"]}, but the '
                        f'model {wanted}'
                    )
    return problems
