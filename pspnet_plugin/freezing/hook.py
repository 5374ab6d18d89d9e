"""The hook that applies a freeze schedule to a runner."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import get_priority
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import PspnetPluginError
from .ddp import rebuild_reducers
from .enforce import (
    apply_own_freezing,
    checkpoint_without_reentry,
    hold_statistics,
    set_trainable,
    stop_freezing_by_itself,
)
from .optimizer import (
    check_layout,
    fit_groups,
    leave_steps_uncompiled,
    restore_scheduled_lr,
    scale_lr,
)
from .plan import plan
from .report import describe
from .schedule import RunLength, Timeline


class UnsupportedRunError(PspnetPluginError):
    """The run is of a kind in which layers cannot be frozen by this hook."""


@HOOKS.register_module()
class LayerFreezeHook(Hook):
    """Freeze and unfreeze parts of a model by schedule.

    Frozen means: no gradient, no update, no weight decay, no change of momentum and, with
    ``norm_eval``, no update of running statistics. The state at iteration t follows from the config
    and t alone, so a resumed run goes on as if it had not been interrupted.

    Args:
        freeze: patterns of what is frozen from the start: see ``pspnet_plugin.freezing.selection``.
        schedule: lines ``dict(at=, unfreeze=[…], freeze=[…], except_=[…], lr_mult=1.0, warmup=0)``,
            or a preset ``dict(type='gradual_unfreeze' | 'probe_then_finetune', …)``. ``at`` and
            ``warmup`` count iterations (epochs with ``by_epoch``); a float is a fraction of the
            run. From ``at`` on, ``unfreeze`` trains with ``lr_mult`` times the scheduled learning
            rate, which it reaches in equal steps over ``warmup``. The last line that names
            something decides about it.
        by_epoch: whether whole numbers in ``schedule`` count epochs.
        norm_eval: keep normalization layers (and whatever else keeps statistics in buffers) of
            frozen parts in eval mode.
        except_: patterns of what ``freeze`` leaves out.
        stage_lr_decay: learning rates of a backbone's stages, falling by this factor from the last
            stage to the stem; a number for ``backbone``, or ``dict(MODULE=NUMBER)``.

    Raises:
        SelectionError: a pattern matches nothing.
        ScheduleError: the schedule is malformed, or freezes everything.
        UnsupportedRunError: the model is sharded (FSDP, DeepSpeed), or wrapped in another way that
            leaves the hook no parameters of the model's own.
    """

    priority = 'HIGHEST'

    def __init__(
        self,
        freeze: str | Sequence[str] = (),
        schedule: Sequence[dict] | dict = (),
        by_epoch: bool = False,
        norm_eval: bool = True,
        except_: str | Sequence[str] = (),
        stage_lr_decay: float | dict[str, float] | None = None,
    ):
        self.config = {
            'freeze': freeze,
            'except_': except_,
            'schedule': schedule,
            'stage_lr_decay': stage_lr_decay,
        }
        self.by_epoch = by_epoch
        self.norm_eval = norm_eval
        self.timeline: Timeline | None = None
        self._entered = -1

    def before_run(self, runner) -> None:
        """Lay out the optimizer's groups, before weights and states are loaded."""
        if self.timeline is not None or not isinstance(runner.optim_wrapper, OptimWrapper):
            return  # validates or tests, or has been here
        model = model_of(runner)
        if sum(isinstance(hook, LayerFreezeHook) for hook in runner.hooks) > 1:
            raise UnsupportedRunError('There are two LayerFreezeHooks: put both schedules in one.')
        if runner.cfg.get('activation_checkpointing'):
            checkpoint_without_reentry()
        if runner.cfg.get('compile'):
            leave_steps_uncompiled(_optim_wrappers(runner).values())
        apply_own_freezing(model)
        epoch_length = len(runner.train_dataloader) if self.by_epoch else 1
        length = RunLength(runner.max_iters, epoch_length, self.by_epoch)
        self.timeline = plan(model, length, **self.config)
        for name in stop_freezing_by_itself(model, self.timeline.unfrozen()):
            runner.logger.info(f'The schedule takes over from {name}.frozen_stages.')
        for late in (rule.at for rule in self.timeline.rules if rule.at >= length.max_iters):
            runner.logger.warning(f'The run ends before iteration {late} of the freeze schedule.')
        joined = fit_groups(_optim_wrappers(runner), _schedulers(runner), model, self.timeline)
        if joined:
            runner.logger.info(f'{joined} parameters to be unfrozen later joined the optimizer.')
        stepping = [hook for hook in runner.hooks if isinstance(hook, ParamSchedulerHook)]
        first = min((get_priority(hook.priority) for hook in stepping), default=70)
        runner.register_hook(_RestoreScheduledLr(), priority=first - 1)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse an optimizer's state whose groups are not those of this schedule."""
        state = checkpoint.get('optimizer')
        if not runner._resume or state is None or self.timeline is None:
            return
        for name, optim_wrapper in _optim_wrappers(runner).items():
            check_layout(state[name] if name else state, optim_wrapper.optimizer)

    def before_train(self, runner) -> None:
        """Apply the state of the iteration at which the run starts or is resumed."""
        self._enter(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Apply the state of this iteration."""
        if runner.iter in self.timeline.transitions() and runner.iter != self._entered:
            self._enter(runner)
        else:
            self._apply(runner)

    def after_train(self, runner) -> None:
        """Leave the groups as the last step used them."""
        self._apply(runner, runner.iter - 1)

    def _enter(self, runner) -> None:
        self._entered = runner.iter
        self._apply(runner)
        rebuild_reducers(runner.model)
        model = model_of(runner)
        if self.norm_eval:
            hold_statistics(model, self.timeline.frozen(runner.iter))
        runner.logger.info(_table(model, _optim_wrappers(runner), runner.iter))

    def _apply(self, runner, iteration: int | None = None) -> None:
        iteration = runner.iter if iteration is None else iteration
        model = model_of(runner)
        set_trainable(model, self.timeline.frozen(iteration), self.timeline.named())
        names = _names(model)
        for optim_wrapper in _optim_wrappers(runner).values():
            scale_lr(
                optim_wrapper.optimizer.param_groups,
                lambda parameter: self.timeline.lr_mult(names.get(id(parameter)), iteration),
            )


class _RestoreScheduledLr(Hook):
    """Runs right before the schedulers, which go on from the learning rate they wrote last."""

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for optim_wrapper in _optim_wrappers(runner).values():
            restore_scheduled_lr(optim_wrapper.optimizer.param_groups)


def model_of(runner) -> nn.Module:
    """The runner's model without its wrapper.

    Raises:
        UnsupportedRunError: the wrapper is none that leaves the parameters whole.
    """
    model = runner.model
    if isinstance(model, DistributedDataParallel):
        return model.module
    if hasattr(runner, 'strategy') or is_model_wrapper(model):
        raise UnsupportedRunError(
            f'LayerFreezeHook cannot freeze parts of a model in {type(runner).__name__} with '
            f'{type(model).__name__}: sharded parameters belong to no layer. Use Runner with '
            'MMDistributedDataParallel, or train without the hook.'
        )
    return model


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _optim_wrappers(runner) -> dict[str, OptimWrapper]:
    optim_wrapper = runner.optim_wrapper
    if isinstance(optim_wrapper, OptimWrapperDict):
        return dict(optim_wrapper.items())
    return {'': optim_wrapper}


def _schedulers(runner) -> dict[str, list]:
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        return schedulers
    return dict.fromkeys(_optim_wrappers(runner), schedulers)


def _table(model: nn.Module, optim_wrappers: dict[str, OptimWrapper], iteration: int) -> str:
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    rates = {
        id(parameter): group['lr']
        for optim_wrapper in optim_wrappers.values()
        for group in optim_wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    by_name = {name: rates.get(id(p)) for name, p in model.named_parameters()}
    training = sum(sizes[name] for name in trains)
    return (
        f'From iteration {iteration} on, {training:,} parameters train and '
        f'{sum(sizes.values()) - training:,} are frozen:\n{describe(model, trains, by_name.get)}'
    )
