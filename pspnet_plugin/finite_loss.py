"""A hook that ends a run whose loss is no number any more."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .compat.checkpoint_files import last_checkpoint
from .errors import PspnetPluginError


class NonFiniteLossError(PspnetPluginError):
    """A loss is NaN or infinite."""


@HOOKS.register_module()
class StopAtNonFiniteLossHook(Hook):
    """End a run at the first iteration whose loss is NaN or infinite, before it is saved.

    The step of that iteration has spoilt the weights. Mixed precision skips such a step and lowers
    its loss scale, so there the run ends when the scale is below 1 and the loss is still no number.

    Raises:
        NonFiniteLossError: names the iteration, the losses and the last checkpoint.
    """

    priority = 'HIGHEST'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        losses = {
            name: value.item() if isinstance(value, torch.Tensor) else value
            for name, value in (outputs or {}).items()
            if 'loss' in name and isinstance(value, (float, torch.Tensor))
        }
        if 'loss' not in losses or torch.tensor(losses['loss']).isfinite():
            return
        # Whether mixed precision has skipped the step and will try a smaller loss scale.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled() and scaler.get_scale() >= 1:
            return
        told = ', '.join(f'{name} {value:.4g}' for name, value in losses.items())
        last = last_checkpoint(runner)
        before = f'The last checkpoint, from before, is {last}.'
        raise NonFiniteLossError(
            f'The loss is not finite at iteration {runner.iter} ({told}), so the run has ended. '
            f'{before if last else "No checkpoint has been written."} Usual causes: a learning '
            'rate that is too high (lower it, warm it up, or set clip_grad), images with NaN, a '
            'batch whose labels are all ignored.'
        )
