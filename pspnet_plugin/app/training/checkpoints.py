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
        own = model.state_dict()
        shapes = {n for n, value in found.items() if n in own and own[n].shape != value.shape}
        fitting = {name: value for name, value in found.items() if name not in shapes}
        # The modules know older names of their weights.
        missing, unexpected = model.load_state_dict(fitting, strict=False)
        parts = dict(model.named_children())
        groups = {
            'missing': [name for name in missing if name not in shapes],
            'of another shape': sorted(shapes),
            'unused': [name for name in unexpected if name.partition('.')[0] in parts],
        }
        told = [
            f'{what}: {shortened(counted)}'
            for what, names in groups.items()
            if (counted := [name for name in names if not name.startswith(AUXILIARY)])
        ]
        if told:
            raise AnotherModelError(
                f'The checkpoint {runner._load_from} is of another model than the config '
                f'({"; ".join(told)}), so its metrics would mean nothing. Use the config that it '
                'was trained with.'
            )
        broken = [n for n, value in fitting.items() if n in own and not value.isfinite().all()]
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
        model = segmentor_of(runner)
        own, found = (
            shapes_in_backbone(model.state_dict()),
            shapes_in_backbone(weights_in(checkpoint)),
        )
        differing = {name for name, shape in found.items() if own.get(name) != shape}
        if not planned_loads(runner.cfg, model):
            differing |= own.keys() - found.keys()
        total = len({**own, **found})
        if own and len(differing) > DIFFERENT * total:
            raise AnotherModelError(
                f'load_from={runner._load_from!r} is of another model than the config: of '
                f'{total} tensors of the backbones {len(differing)} differ, and would stay random. '
                'Use the config that it was trained with, or give it to PretrainedBackbone '
                '(init_cfg of the backbone), which says what fits.'
            )


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
