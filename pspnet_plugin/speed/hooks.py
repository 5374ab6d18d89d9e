"""Hooks that run the same network faster."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from ..utils.distributed import is_sharded, unwrapped
from .channels_last import fall_back_once, set_memory_format
from .examples import example_runs
from .folding import fold_batch_norms
from .memory import keep_freed_memory
from .steps import replace_step, watch_loops


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keeps weights of 2-d convolutions channels-last, and with them every feature map.

    A model whose first step of a kind fails becomes contiguous and does the step again, as if the
    step had not begun; one warning says why. A model stays contiguous under a fused optimizer, and
    on a CPU where it has layers whose channels-last gradients PyTorch computes wrong or not at all,
    see docs/compat.md.

    Args:
        enabled: False adds nothing to the run, also where every run has this hook.

    Example:
        custom_hooks=[dict(type='ChannelsLastHook')]
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._format = torch.channels_last
        self._tried: set[str] = set()

    def before_run(self, runner: Runner) -> None:
        """Start anew with another run."""
        if not self.enabled:
            return
        self._format, self._tried = torch.channels_last, set()
        watch_loops(runner)
        defect = _defect_of_optimizer(runner.optim_wrapper) or _defect_on_cpu(runner.model)
        if defect:
            self._format = torch.contiguous_format
            runner.logger.info(f'ChannelsLastHook leaves the model contiguous: {defect}')

    # Not in before_run: random initialization fills weights in the order of their memory, so the
    # same seed would give other weights.
    def before_train(self, runner: Runner) -> None:
        """Convert the model, which by now is initialized or resumed."""
        if self.enabled:
            set_memory_format(runner.model, self._format)

    before_val = before_test = before_train

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save contiguous weights, as without the hook: safetensors and others take no others."""
        weights = checkpoint.get('state_dict', {}) if self.enabled else {}
        for name, value in weights.items():
            if isinstance(value, torch.Tensor):
                weights[name] = value.contiguous()

    def _before_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = 'train'
    ) -> None:
        """Have the first step of a kind done again if it fails."""
        if not self.enabled or mode in self._tried or self._format != torch.channels_last:
            return
        self._tried.add(mode)

        def tell(error: Exception) -> None:
            self._format = torch.contiguous_format
            runner.logger.warning(
                f'ChannelsLastHook leaves the model contiguous, which fails channels-last: {error}'
            )

        loop = getattr(runner, f'{mode}_loop')
        fall_back_once(loop, runner.model, f'{mode}_step', tell)


@HOOKS.register_module()
class FoldBatchNormHook(Hook):
    """Validates and tests with a copy of the model whose batch norms are folded.

    The copy exists during validation or testing only, whatever ends them, and does the model's
    ``val_step`` or ``test_step``. It shares the parameters and the hooks of the model, which
    stays ``runner.model`` and is not run meanwhile: its buffers and the random state are as they
    were. A model that cannot be folded validates as it is, and a warning in the log says why. Fully
    sharded models are left as they are.

    Args:
        enabled: False adds nothing to the run, also where every run has this hook.

    Example:
        custom_hooks=[dict(type='FoldBatchNormHook')]
    """

    # After EMAHook (NORMAL) puts its weights in.
    priority = 'LOW'

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._put_back: Callable[[], None] = lambda: None
        self._logged = ''

    def before_run(self, runner: Runner) -> None:
        """See to it that whatever ends a loop, the model has its own steps again."""
        watch_loops(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Have a folded copy do the steps of validation."""
        self._fold(runner, runner.val_loop, 'val_step')

    def before_test_epoch(self, runner: Runner) -> None:
        """Have a folded copy do the steps of testing."""
        self._fold(runner, runner.test_loop, 'test_step')

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Have the model do its steps by itself again."""
        self._put_back()

    after_test_epoch = after_val_epoch

    def _fold(self, runner: Runner, loop: BaseLoop, step: str) -> None:
        self._put_back()
        if not self.enabled or is_sharded(runner.model):
            return
        model = unwrapped(runner.model)
        try:
            folded, count = fold_batch_norms(model, *example_runs(model))
        except Exception as error:  # whatever it is, the run goes on without folding
            message = f'FoldBatchNormHook leaves the model as it is: {error!r}'
            self._log(runner, message, logging.WARNING)
            return
        self._log(runner, f'FoldBatchNormHook folded {count} batch norms for prediction.')
        if count:
            self._put_back = replace_step(loop, runner.model, step, getattr(folded, step))

    def _log(self, runner: Runner, message: str, level: int = logging.INFO) -> None:
        if message != self._logged:  # once, not in every validation
            runner.logger.log(level, message)
        self._logged = message


@HOOKS.register_module()
class KeepMemoryHook(Hook):
    """Reuses the memory of one step in the next, in runs on a CPU with glibc (most of Linux).

    The process then keeps the size of its largest step, see :func:`.memory.keep_freed_memory`.

    Args:
        enabled: False adds nothing to the run, also where every run has this hook.

    Example:
        custom_hooks=[dict(type='KeepMemoryHook')]
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def before_run(self, runner: Runner) -> None:
        """Set it for the rest of the process."""
        if self.enabled and get_device() == 'cpu' and keep_freed_memory():
            runner.logger.info('KeepMemoryHook keeps the memory of each step for the next one.')


def _defect_of_optimizer(optim_wrapper: Any) -> str:
    """Why a model may not be channels-last while it trains, '' if it may."""
    several = isinstance(optim_wrapper, OptimWrapperDict)
    wrappers = list(optim_wrapper.values()) if several else [optim_wrapper]
    built = [wrapper.optimizer for wrapper in wrappers if isinstance(wrapper, OptimWrapper)]
    if any(group.get('fused') for optimizer in built for group in optimizer.param_groups):
        return (
            'a fused optimizer takes each weight and its state in the order of their memory, which '
            'differs where a run without the hook is resumed with it, or the reverse.'
        )
    return ''


def _defect_on_cpu(model: nn.Module) -> str:
    """What PyTorch does wrong in channels-last layers of ``model`` on a CPU, '' if nothing."""
    if any(parameter.device.type != 'cpu' for parameter in model.parameters()):
        return ''
    if any(isinstance(module, _InstanceNorm) for module in model.modules()):
        return (
            'on a CPU, PyTorch computes wrong gradients of instance norm for single images that '
            'are channels-last.'
        )
    if any(map(_is_narrow_and_strided, model.modules())):
        return (
            'on a CPU, the gradient of a channels-last 1 x 1 convolution with stride 2 and fewer '
            'than 16 channels may end the process.'
        )
    return ''


def _is_narrow_and_strided(module: nn.Module) -> bool:
    """Whether oneDNN writes past its memory for some batches that do not divide by the threads."""
    return (
        isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.groups) == ((1, 1), (2, 2), 1)
        and module.in_channels < 16
    )
