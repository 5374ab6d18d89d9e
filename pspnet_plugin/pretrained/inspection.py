"""Which pretrained weights a config would load, without a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from .hook import PretrainedBackboneHook, find_module
from .initializer import PretrainedBackbone

OURS = (PretrainedBackbone.__name__, 'mmengine.' + PretrainedBackbone.__name__)
STOCK = ('Pretrained', 'mmengine.Pretrained')


def planned_loads(config: Config, model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Name of a part of ``model`` and the arguments of ``load_pretrained`` for it.

    What mmengine's own ``Pretrained`` would load counts too. A hook's settings replace those of the
    part that it names, as in a run.
    """
    loads = dict(_of_modules(model))
    for hook in config.get('custom_hooks') or ():
        if str(hook['type']).rpartition('.')[2] == PretrainedBackboneHook.__name__:
            settings = {key: hook[key] for key in hook if key not in ('type', 'module', 'priority')}
            name = hook.get('module', 'backbone')
            find_module(model, name)
            loads[name] = settings
    for settings in loads.values():
        if settings.get('classes') == 'by_name' and not settings.get('class_names'):
            settings['class_names'] = class_names_of(config)
    return list(loads.items())


def _of_modules(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in model.named_modules():
        init_cfg = getattr(module, 'init_cfg', None) or ()
        for cfg in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
            kind = str(getattr(cfg['type'], '__name__', cfg['type']))
            if kind in OURS:
                yield name, {key: cfg[key] for key in cfg if key != 'type'}
            elif kind in STOCK or kind == 'PretrainedInit':
                yield name, {key: cfg[key] for key in cfg if key in ('checkpoint', 'prefix')}


def class_names_of(config: Config) -> list[str] | None:
    """The classes of a config's training dataset, None where it does not tell them."""
    dataset = (config.get('train_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    classes = (dataset.get('metainfo') or {}).get('classes')
    if not classes and dataset.get('type'):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(dataset['type'])
        classes = getattr(kind, 'METAINFO', {}).get('classes')
    return list(classes) if classes else None
