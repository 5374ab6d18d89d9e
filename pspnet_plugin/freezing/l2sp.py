"""Weight decay towards the weights at the start of a run, in place of zero."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from ..utils.distributed import is_sharded, unwrapped
from .hook import UnsupportedRunError
from .optimizer import by_name, leave_steps_uncompiled
from .schedule import ScheduleError, is_number
from .selection import module_named

START = 'l2sp_start'


@HOOKS.register_module()
class L2SPHook(Hook):
    """Pull a pretrained part of the model towards the weights with which its training starts.

    The optimizer's own ``weight_decay`` must be 0 for that part, and goes on pulling the rest
    towards zero: the beta of the paper. The part's parameters get ``alpha * (w - start)`` as they
    would get ``weight_decay * w``: SGD and Adam add it to the gradient, after clipping, and AdamW
    subtracts it, times the learning rate, from the weight before its step. What has no gradient,
    as all that is frozen, stays as it is.

    The start is what the run begins with: pretrained weights or ``load_from``. Checkpoints hold it,
    so a resumed run has the same, also where the pretrained file has changed or gone.

    Source: X. Li, Y. Grandvalet and F. Davoine, "Explicit Inductive Bias for Transfer Learning with
    Convolutional Networks".

    Args:
        alpha: strength, in the place of ``weight_decay``.
        module: dotted name of the pretrained part.

    Raises:
        ScheduleError: ``alpha`` is no number above 0.
        SelectionError: there is no such module.
        UnsupportedRunError: the optimizer is none of SGD, Adam and AdamW, or decays the part by
            itself; the model is sharded; a checkpoint that is resumed has no start of the part.

    Example:
        custom_hooks=[dict(type='L2SPHook', alpha=0.01)]
        optim_wrapper=dict(paramwise_cfg=dict(custom_keys={'backbone': dict(decay_mult=0)}), ...)
    """

    def __init__(self, alpha: float, module: str = 'backbone') -> None:
        if not is_number(alpha) or not alpha > 0:
            raise ScheduleError(f'alpha must be a number above 0, not {alpha!r}.')
        self.alpha, self.module = alpha, module
        self._start: dict[str, Tensor] = {}
        self._started: Callable[[], Runner | None] = lambda: None
        self._starts: dict[nn.Parameter, Tensor] = {}
        self._handles: list[Any] = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take over the start of the run that is resumed."""
        if not runner._resume:
            return
        if START not in checkpoint:
            raise UnsupportedRunError(
                'The checkpoint holds no start for L2SPHook, so its run was another one: resume '
                'without the hook, or start a new run from its weights (load_from, without resume).'
            )
        self._start, self._started = checkpoint[START], weakref.ref(runner)

    def before_train(self, runner: Runner) -> None:
        """Remember the start of a new run, and pull before each step of the optimizer."""
        model = runner.model
        if is_sharded(model):
            raise UnsupportedRunError(f'L2SPHook cannot pull a model in {type(model).__name__}.')
        pulled = module_named(unwrapped(model), self.module).named_parameters(self.module)
        parameters = dict(pulled)
        if self._started() is not runner:  # a second training of a runner has the same start
            self._start = {name: p.detach().clone() for name, p in parameters.items()}
            self._started = weakref.ref(runner)
        if not self._start.keys() >= parameters.keys():
            raise UnsupportedRunError(
                f'The checkpoint holds no start of {self.module or "the whole model"} for '
                'L2SPHook: resume with the module of its run, or start a new run from its weights '
                '(load_from, without resume).'
            )
        self._starts = {p: self._start[name].to(p) for name, p in parameters.items()}
        wrappers = by_name(runner.optim_wrapper).values()
        for wrapper in wrappers:
            self._check(wrapper.optimizer, hasattr(wrapper, 'loss_scaler'))
        while self._handles:
            self._handles.pop().remove()
        for wrapper in wrappers:
            require_step_hooks(type(wrapper.optimizer))
            self._handles.append(wrapper.optimizer.register_step_pre_hook(self._pull))
        if runner.cfg.get('compile'):
            leave_steps_uncompiled(wrappers)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the start for a run that is resumed."""
        starts = {name: start.cpu() for name, start in self._start.items()}
        checkpoint[START] = {**checkpoint.get(START, {}), **starts}  # of several hooks

    def _check(self, optimizer: Optimizer, scales_loss: bool) -> None:
        groups = [g for g in optimizer.param_groups if any(p in self._starts for p in g['params'])]
        if groups and type(optimizer) not in (SGD, Adam, AdamW):
            raise UnsupportedRunError(
                f'How {type(optimizer).__name__} decays weights is not known to L2SPHook: use SGD, '
                'Adam or AdamW.'
            )
        for group in groups:
            if group['weight_decay'] != 0:
                raise UnsupportedRunError(
                    f'weight_decay={group["weight_decay"]} pulls {self.module} towards zero while '
                    'L2SPHook pulls it towards its start: set paramwise_cfg=dict(custom_keys={'
                    f'{self.module!r}: dict(decay_mult=0)}}) in optim_wrapper.'
                )
            if group.get('fused') and scales_loss:
                raise UnsupportedRunError(
                    'A fused optimizer gets gradients that mixed precision has scaled, to which '
                    'L2SPHook cannot add: leave out fused=True.'
                )

    @torch.no_grad()
    def _pull(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        for group in optimizer.param_groups:
            for parameter in group['params']:
                if parameter.grad is None or parameter not in self._starts:
                    continue
                distance = parameter - self._starts[parameter]
                # Since torch 2.7 Adam can decay weights as AdamW does.
                if group.get('decoupled_weight_decay', isinstance(optimizer, AdamW)):
                    parameter -= float(group['lr']) * self.alpha * distance
                elif group.get('maximize'):
                    parameter.grad -= self.alpha * distance
                else:
                    parameter.grad += self.alpha * distance


def require_step_hooks(kind: type[Optimizer]) -> None:
    """Raise UnsupportedRunError where an optimizer calls no hooks before its steps.

    In PyTorch before 2.4 none does once anything has been compiled.
    """
    called: list[bool] = []
    probe = kind([torch.zeros(1, requires_grad=True)], lr=1.0)  # type: ignore[call-arg]
    probe.register_step_pre_hook(lambda *_: called.append(True))
    probe.step()
    if not called:
        raise UnsupportedRunError(
            f'L2SPHook cannot pull: PyTorch {torch.__version__} calls no hooks of optimizers once '
            'something has been compiled. Leave out compile, or use PyTorch 2.4 or later.'
        )
