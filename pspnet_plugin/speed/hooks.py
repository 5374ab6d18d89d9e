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

from ..wrappers import unwrapped
from .folding import fold_batch_norms
from .memory import keep_freed_memory

EXAMPLE_SIZE = 64  # height and width of the input on which a model is folded: 2 x 2 at stride 32


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps convolution weights channels-last, and with them every feature map.

    Example:
        custom_hooks=[dict(type='ChannelsLastHook')]
    """

    # Not in before_run: random initialization fills weights in the order of their memory, so the
    # same seed would give other weights.
    def before_train(self, runner: Runner) -> None:
        """Convert the model, which by now is initialized or resumed."""
        runner.model.to(memory_format=torch.channels_last)

    before_val = before_test = before_train


@HOOKS.register_module()
class FoldBatchNormHook(Hook):
    """Validates and tests on a copy of the model whose batch norms are folded.

    The copy exists during validation or testing only; the model that is trained and saved is not
    changed. Fully sharded models are left as they are.

    Example:
        custom_hooks=[dict(type='FoldBatchNormHook')]
    """

    # After EMAHook (NORMAL) puts its weights in, before CheckpointHook (VERY_LOW) saves the model.
    priority = 'LOW'

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._logged = False

    def before_val_epoch(self, runner: Runner) -> None:
        """Replace the runner's model by its folded copy."""
        if is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel):
            return  # a fully sharded model, whose convolutions hold only a part of each weight
        model = unwrapped(runner.model)
        # The copy of a compiled model calls the model itself, which must then be in eval mode.
        model.eval()
        try:
            folded, count = fold_batch_norms(model, _run_example)
        except Exception as error:  # whatever it is, the run goes on without folding
            self._log(runner, f'FoldBatchNormHook leaves the model as it is: {error!r}')
            return
        self._log(runner, f'FoldBatchNormHook folded {count} batch norms for prediction.')
        if count:
            self._model, runner.model = runner.model, folded

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Give the trained model back to the runner."""
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
    """Reuses the memory of one step in the next, in runs on a CPU with glibc (most of Linux).

    The process then keeps the size of its largest step, see :func:`.memory.keep_freed_memory`.

    Example:
        custom_hooks=[dict(type='KeepMemoryHook')]
    """

    def before_run(self, runner: Runner) -> None:
        """Set it for the rest of the process."""
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
