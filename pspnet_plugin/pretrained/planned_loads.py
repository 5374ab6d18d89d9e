"""Which pretrained weights a config would load, without a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.config import Config
from torch import nn

from ..utils.config_tree import datasets_within, init_cfgs, kind_of, parts_within
from ..utils.datasets import metainfo_of, scope_of
from .errors import PretrainedWeightsError
from .hook import PretrainedBackboneHook, find_module
from .initializer import PretrainedBackbone

OURS = PretrainedBackbone.__name__
STOCK = ('Pretrained', 'PretrainedInit')


def planned_loads(config: Config, model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Name of a part of ``model`` and the arguments of ``load_pretrained`` for it.

    What mmengine's own ``Pretrained`` would load counts too. A hook's settings replace those of the
    part that it names, as in a run.
    """
    loads = dict(_of_modules(model))
    for name, hook in _our_hooks(config):
        find_module(model, name)
        loads[name] = {key: hook[key] for key in hook if key not in ('type', 'module', 'priority')}
    for settings in loads.values():
        if settings.get('classes') == 'by_name' and not settings.get('class_names'):
            settings['class_names'] = class_names_of(config)
    return list(loads.items())


def refuse_timm_weights(config: Config, parts: Iterable[str] = ()) -> None:
    """Look at a config before its model is built, because timm downloads while it is built.

    Args:
        parts: names of parts that are to get weights besides those that the config says.

    Raises:
        PretrainedWeightsError: a TIMMBackbone is to get timm's weights and ours.
    """
    nodes = dict(parts_within(config.get('model') or {}))
    ours = [*parts, *(name for name, _ in _our_hooks(config))]
    for name, node in nodes.items():
        ours += [name for cfg in init_cfgs(node.get('init_cfg')) if kind_of(cfg) == OURS]
    for name, node in nodes.items():
        from_timm = kind_of(node) == 'TIMMBackbone' and node.get('pretrained', True)
        if from_timm and any(part in ('', name) for part in ours):
            raise PretrainedWeightsError(
                f'model.{name} is a TIMMBackbone with pretrained=True, which is its default: timm '
                'would fetch weights of its own first. Say pretrained=False; the weights come from '
                'the checkpoint.'
            )


def _our_hooks(config: Config) -> Iterator[tuple[str, dict]]:
    for hook in config.get('custom_hooks') or ():
        if kind_of(hook) == PretrainedBackboneHook.__name__:
            yield hook.get('module', 'backbone'), hook


def _of_modules(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, module in model.named_modules():
        for cfg in init_cfgs(getattr(module, 'init_cfg', None)):
            if kind_of(cfg) == OURS:
                yield name, {key: cfg[key] for key in cfg if key != 'type'}
            elif kind_of(cfg) in STOCK:
                yield name, {key: cfg[key] for key in cfg if key in ('checkpoint', 'prefix')}


def class_names_of(config: Config) -> list[str] | None:
    """The classes of a config's training dataset, None where it does not tell them."""
    whole = (config.get('train_dataloader') or {}).get('dataset')
    classes = metainfo_of(next(datasets_within(whole), {}), scope_of(config)).get('classes')
    return list(classes) if classes else None
