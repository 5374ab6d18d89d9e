"""The hook that applies a freeze schedule to a runner."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, get_priority
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import PspnetPluginError
from ..utils.distributed import unwrapped
from . import enforce, optimizer
from .optimizer import by_name
from .plan import plan
from .report import describe
from .schedule import RunLength, Timeline, refuse_unknown


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
        schedule: lines ``dict(at=, unfreeze=[…], freeze=[…], exclude=[…], lr_mult=1.0, warmup=0)``,
            or a preset ``dict(type='gradual_unfreeze' | 'probe_then_finetune', …)``. ``at`` and
            ``warmup`` count iterations (epochs with ``by_epoch``); a float is a fraction of the
            run. From ``at`` on, ``unfreeze`` trains with ``lr_mult`` times the scheduled learning
            rate, which it reaches in equal steps over ``warmup``. The last line that names
            something decides about it.
        by_epoch: whether integers in ``schedule`` count epochs.
        norm_eval: keep normalization layers (and whatever else keeps statistics in buffers) of
            frozen parts in eval mode.
        exclude: patterns of what ``freeze`` leaves out.
        stage_lr_decay: learning rates of a backbone's stages, falling by this factor from the last
            stage to the stem; a number for ``backbone``, or ``dict(MODULE=NUMBER)``.

    Raises:
        SelectionError: a pattern matches nothing.
        ScheduleError: an argument is unknown, the schedule is malformed, or freezes everything.
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
        exclude: str | Sequence[str] = (),
        stage_lr_decay: float | dict[str, float] | None = None,
        **unknown: Any,
    ):
        self.config: dict[str, Any] = {
            'freeze': freeze,
            'schedule': schedule,
            'exclude': exclude,
            'stage_lr_decay': stage_lr_decay,
        }
        self.by_epoch = by_epoch
        self.norm_eval = norm_eval
        refuse_unknown('LayerFreezeHook', unknown, [*self.config, 'by_epoch', 'norm_eval'])
        self.timeline = Timeline()
        self.planned_for: Callable[[], Runner | None] = lambda: None
        self.groups_fit = False
        # Set when training starts: the transitions that come, the factors on the learning rates of
        # each optimizer's groups, and for each parameter of the schedule whether it trains now.
        self.ahead: set[int] = set()
        self.lr_histories: dict[str, dict[int, tuple]] = {}
        self.wanted: list[tuple[nn.Parameter, bool]] = []

    def before_optim_wrapper(self, runner: Runner) -> None:
        """Plan the run, before an optimizer is built with what requires a gradient."""
        if self.planned_for() is runner:
            return
        refuse_unsupported(runner)
        epoch_length = len(runner.train_dataloader) if self.by_epoch else 1
        length = RunLength(runner.train_loop.max_iters, epoch_length, self.by_epoch)
        self.timeline = plan_run(unwrapped(runner.model), length, self.config, runner.logger)
        self.planned_for, self.groups_fit = weakref.ref(runner), False
        stepping = [hook for hook in runner.hooks if isinstance(hook, ParamSchedulerHook)]
        first = min((get_priority(hook.priority) for hook in stepping), default=70)
        runner.register_hook(_RestoreScheduledLr(), priority=first - 1)

    def after_optim_wrapper(self, runner: Runner) -> None:
        """Lay out the optimizer's groups, before schedulers are built and states are loaded."""
        wrappers, model = by_name(runner.optim_wrapper), unwrapped(runner.model)
        joined = optimizer.fit_groups(wrappers, runner.param_schedulers, model, self.timeline)
        self.groups_fit = True
        if joined:
            runner.logger.info(f'{joined} parameters to be unfrozen later joined the optimizer.')

    def before_run(self, runner: Runner) -> None:
        """Refuse FlexibleRunner, and keep the optimizer of a compiled model from being compiled."""
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            return  # no training
        if hasattr(runner, 'strategy'):
            refuse_unsupported(runner)
        if runner.cfg.get('compile'):
            optimizer.leave_steps_uncompiled(by_name(runner.optim_wrapper).values())

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse an optimizer's state whose groups are not those of this schedule."""
        state = checkpoint.get('optimizer')
        planned = self.planned_for() is runner
        if not runner._resume or state is None or not planned:
            return
        for name, wrapper in by_name(runner.optim_wrapper).items():
            optimizer.check_layout(state[name] if name else state, wrapper.optimizer)

    def before_train(self, runner: Runner) -> None:
        """Apply the state of the iteration at which the run starts or is resumed."""
        planned = self.planned_for() is runner
        if not planned or not self.groups_fit:
            raise UnsupportedRunError(
                f'LayerFreezeHook cannot freeze layers in {type(runner).__name__}, which builds '
                "its optimizer in a way of its own: have it call Runner's build_optim_wrapper and "
                'scale_lr.'
            )
        model = unwrapped(runner.model)
        enforce.checkpoint_without_reentry(model, runner.cfg.get('activation_checkpointing') or ())
        self.lr_histories = {
            name: optimizer.lr_histories(optimizer.groups_of(wrapper), model, self.timeline)
            for name, wrapper in by_name(runner.optim_wrapper).items()
        }
        self.ahead = {t for t in self.timeline.transitions() if t > runner.iter}
        self._enter(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Enter the state that begins at this iteration, and scale the learning rates."""
        if runner.iter in self.ahead:
            self._enter(runner)
        else:
            # A model's own ``train``, or another hook, may have changed it.
            enforce.require_gradients(self.wanted)
        self._scale(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Leave the learning rates with the factors of the last step, for whoever looks at them."""
        self._scale(runner, runner.iter - 1)

    def _enter(self, runner: Runner) -> None:
        model, frozen = unwrapped(runner.model), self.timeline.frozen(runner.iter)
        self.wanted = enforce.set_trainable(model, frozen, self.timeline.named())
        enforce.rebuild_reducers(runner.model)
        enforce.discard_compiled_graphs()
        if self.norm_eval:
            enforce.hold_statistics(model, frozen)
        self._scale(runner, runner.iter)
        optimizers = [wrapper.optimizer for wrapper in by_name(runner.optim_wrapper).values()]
        fixed = self.timeline.only_fixed(runner.iter)
        runner.logger.info(describe(model, optimizers, runner.iter, fixed))

    def _scale(self, runner: Runner, iteration: int) -> None:
        for name, wrapper in by_name(runner.optim_wrapper).items():
            groups = optimizer.groups_of(wrapper)
            optimizer.scale_lr(groups, self.lr_histories[name], iteration)


class _RestoreScheduledLr(Hook):
    """Runs right before the schedulers, which compute from the learning rate they wrote last."""

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        for wrapper in by_name(runner.optim_wrapper).values():
            optimizer.restore_scheduled_lr(optimizer.groups_of(wrapper))


def refuse_unsupported(runner: Runner) -> None:
    """Raise an UnsupportedRunError unless parameters belong to layers and one hook freezes them."""
    if sum(isinstance(hook, LayerFreezeHook) for hook in runner.hooks) > 1:
        raise UnsupportedRunError('There are two LayerFreezeHooks: put both schedules in one.')
    model = runner.model
    # MMSeparateDistributedDataParallel calls itself one, but wraps the model's children instead.
    whole = isinstance(model, DistributedDataParallel) and hasattr(model, 'reducer')
    if hasattr(runner, 'strategy') or (is_model_wrapper(model) and not whole):
        raise UnsupportedRunError(
            f'LayerFreezeHook cannot freeze parts of a model in {type(runner).__name__} with '
            f'{type(model).__name__}: there, parameters that are sharded or wrapped one by one '
            'belong to no layer. Use Runner with MMDistributedDataParallel, or train without the '
            'hook.'
        )


def plan_run(
    model: nn.Module, length: RunLength, config: dict[str, Any], logger: logging.Logger
) -> Timeline:
    """Plan a run with the hook's ``config``, and ready the model for the optimizer's constructor.

    ``DefaultOptimWrapperConstructor`` with a ``paramwise_cfg`` skips what requires no gradient when
    it runs. What is to be unfrozen later requires one until training starts.
    """
    for _, backbone in enforce.freezing_backbones(model):
        backbone.train()  # before which some freeze nothing
    timeline = plan(model, length, **config)
    for name in enforce.stop_freezing_by_itself(model, timeline.unfrozen()):
        logger.info(f'The schedule takes over from {name}.frozen_stages.')
    for late in (rule.at for rule in timeline.rules if rule.at >= length.max_iters):
        logger.warning(f'The run ends before iteration {late} of the freeze schedule.')
    enforce.set_trainable(model, (), timeline.unfrozen())
    return timeline
