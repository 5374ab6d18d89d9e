"""Hooks that run the same network faster."""

from __future__ import annotations

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .folding import fold_batch_norms
from .memory import keep_freed_memory

EXAMPLE_SIZE = 64  # pixels; enough for every stage of a network with stride 32


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps convolution weights channels-last, and with them every feature map.

    Example:
        custom_hooks=[dict(type='ChannelsLastHook')]
    """

    # Before a run is too early: random initialization fills memory in order, so the same seed
    # would give other weights.
    def before_train(self, runner: Runner) -> None:
        """Convert the model after it is initialized or resumed."""
        runner.model.to(memory_format=torch.channels_last)

    before_val = before_test = before_train


@HOOKS.register_module()
class FoldBatchNormHook(Hook):
    """Validates and tests on a copy of the model whose batch norms are folded.

    The copy lives during validation or testing only; the model that is trained and saved is not
    touched. Fully sharded models are left alone.

    Example:
        custom_hooks=[dict(type='FoldBatchNormHook')]
    """

    # After EMAHook (NORMAL) has put its weights in, before CheckpointHook (VERY_LOW) saves a model.
    priority = 'LOW'

    def __init__(self):
        self._model: nn.Module | None = None
        self._logged = False

    def before_val_epoch(self, runner: Runner) -> None:
        """Put the folded copy in the runner's hands."""
        model = runner.model
        if is_model_wrapper(model):
            if not isinstance(model, DistributedDataParallel):
                return
            model = model.module
        # The copy of a compiled model still calls the model itself, which must then predict.
        model.eval()
        try:
            folded, count = fold_batch_norms(model, _run_example)
        except Exception as error:  # An optimization must not end a run of days.
            self._log(runner, f'FoldBatchNormHook leaves the model as it is: {error!r}')
            return
        self._log(runner, f'FoldBatchNormHook folded {count} batch norms for prediction.')
        if count:
            self._model, runner.model = runner.model, folded

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Give the trained model back."""
        if self._model is not None:
            self._model, runner.model = None, self._model

    before_test_epoch = before_val_epoch
    after_test_epoch = after_val_epoch

    def _log(self, runner: Runner, message: str) -> None:
        if not self._logged:
            runner.logger.info(message)
        self._logged = True


@HOOKS.register_module()
class KeepMemoryHook(Hook):
    """Lets the memory of one step serve the next, in runs on a CPU with glibc (most of Linux).

    The process then keeps the size of its largest step, see :func:`.memory.keep_freed_memory`.

    Example:
        custom_hooks=[dict(type='KeepMemoryHook')]
    """

    def before_run(self, runner: Runner) -> None:
        """Tell the C library, for the rest of the process."""
        if get_device() == 'cpu' and keep_freed_memory():
            runner.logger.info('KeepMemoryHook keeps the memory of each step for the next one.')


def _run_example(model: nn.Module) -> Tensor | tuple[Tensor, ...]:
    if isinstance(model, BaseTTAModel):
        model = model.module
    weight = next(p for p in model.parameters() if p.dim() == 4)
    noise = torch.randn(
        1, weight.shape[1], EXAMPLE_SIZE, EXAMPLE_SIZE, generator=torch.Generator().manual_seed(0)
    )
    return model(noise.to(weight), mode='tensor')
