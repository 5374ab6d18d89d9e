"""Hooks that refuse another model's checkpoint, of which mmengine loads what happens to fit."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel
from mmengine.runner import Runner
from torch import Tensor, nn

from ...errors import PspnetPluginError
from ...pretrained.planned_loads import planned_loads
from ...utils.distributed import unwrapped
from ...utils.text import shortened
from .settings import order_problems

AUXILIARY = 'auxiliary_head.'  # which predicts nothing
DIFFERENT = 0.1  # share of a backbone's tensors; a first convolution or a stem may be another


class AnotherModelError(PspnetPluginError):
    """A checkpoint is of another model than the config."""


class RequireAllWeightsHook(Hook):
    """Before a test: each weight of the model is in the checkpoint, and no others of its parts."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Raise AnotherModelError for weights that would stay random, or would not be used.

        Raises:
            PspnetPluginError: weights are NaN or infinite.
        """
        model, found = segmentor_of(runner), weights_in(checkpoint)
        told = differences(model, found, AUXILIARY)
        if told:
            raise AnotherModelError(
                f'The checkpoint {runner._load_from} is of another model than the config ({told}), '
                'so its metrics would mean nothing. Use the config that it was trained with.'
            )
        own = model.state_dict()
        broken = [n for n, value in found.items() if n in own and not value.isfinite().all()]
        if broken:
            raise PspnetPluginError(
                f'The checkpoint {runner._load_from} has NaN or infinite values in '
                f'{shortened(broken)}: the training that made it had diverged, and its metrics '
                'would mean nothing. Take an earlier checkpoint.'
            )
        classes = (checkpoint.get('meta', {}).get('dataset_meta') or {}).get('classes') or ()
        for problem in order_problems(runner.cfg, ('test_dataloader',), classes):
            raise AnotherModelError(f'{runner._load_from}: {problem}.')


class RequireSameBackboneHook(Hook):
    """Before training from ``load_from``: its backbone is the model's, whatever the heads are.

    What it lacks may come from pretrained weights, see :class:`.PretrainedBackbone`.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Raise AnotherModelError where many tensors of the backbones differ."""
        if runner._resume:
            return
        model, weights = segmentor_of(runner), weights_in(checkpoint)
        own, found = shapes_in_backbone(model.state_dict()), shapes_in_backbone(weights)
        differing = {name for name, shape in found.items() if own.get(name) != shape}
        # A file of parts of this model alone may leave the backbone to pretrained weights.
        parts = dict(model.named_children())
        names = {name.partition('.')[0] for name in weights}
        if not (names and names <= parts.keys() and planned_loads(runner.cfg, model)):
            differing |= own.keys() - found.keys()
        total = len({**own, **found})
        if own and len(differing) > DIFFERENT * total:
            raise AnotherModelError(
                f'load_from={runner._load_from!r} is of another model than the config: of '
                f'{total} tensors of the backbones {len(differing)} differ, and would not be '
                'loaded. Use the config that it was trained with, or give it to PretrainedBackbone '
                '(init_cfg of the backbone), which says what fits.'
            )


def differences(model: nn.Module, found: dict[str, Tensor], besides: str = '') -> str:
    """Which weights of ``found`` do not fit ``model``, and which it lacks; empty where all fit.

    Args:
        besides: the beginning of names that do not count.
    """
    own, parts = model.state_dict(), dict(model.named_children())
    shapes = {n for n, value in found.items() if n in own and own[n].shape != value.shape}
    fitting = {name: value for name, value in found.items() if name not in shapes}
    # The modules know older names of their weights.
    missing, unexpected = model.load_state_dict(fitting, strict=False)
    groups = {
        'missing': [name for name in missing if name not in shapes],
        'of another shape': sorted(shapes),
        'unused': [name for name in unexpected if name.partition('.')[0] in parts],
    }
    if besides:
        groups = {k: [n for n in names if not n.startswith(besides)] for k, names in groups.items()}
    return '; '.join(f'{what}: {shortened(names)}' for what, names in groups.items() if names)


def shapes_in_backbone(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    """The shapes of the backbone's tensors, by name, without the counters of old batch norms."""
    return {
        name: value.shape
        for name, value in weights.items()
        if name.startswith('backbone.') and not name.endswith('num_batches_tracked')
    }


def segmentor_of(runner: Runner) -> nn.Module:
    """The model of a run, without what is around it."""
    model = unwrapped(runner.model)
    return model.module if isinstance(model, BaseTTAModel) else model


def weights_in(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The weights in a checkpoint, as mmengine's runner names them."""
    found = checkpoint.get('state_dict', checkpoint)
    return {
        name.removeprefix('module.'): value
        for name, value in found.items()
        if isinstance(value, torch.Tensor)
    }
