"""Callbacks at points of a run at which mmengine's ``Runner`` calls no hook.

Wrong: no hook can look at a config before anything is built from it, join every run, look at the
initial weights, or say what an optimizer is to hold: hooks are built, or first called, too late.

Changed, for as long as the process runs: ``Runner.from_cfg``, ``Runner.build_logger``,
``Runner.register_hooks`` and ``Runner._init_model_weights`` also do what these lists say:

- :data:`before_build`: functions of a config, called before a runner is built from it;
- :data:`logger_built`: functions of the run's logger, called before anything is logged;
- :data:`added_hooks`: hook classes that every run gets, unless it has one of that class;
- :data:`after_init`: functions of the model, called when the runner has initialized its weights;

and ``Runner.build_optim_wrapper`` and ``Runner.scale_lr`` call two more methods of a run's hooks:

- ``before_optim_wrapper(runner)``: the optimizer wrapper is about to be built;
- ``after_optim_wrapper(runner)``: it is built and its learning rates are scaled, and schedulers are
  about to be built from it.

Unnecessary as soon as mmengine's hooks have these callbacks.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..utils.distributed import unwrapped

before_build: list[Callable[[Config], None]] = []
logger_built: list[Callable[[logging.Logger], None]] = []
added_hooks: list[type[Hook]] = []
after_init: list[Callable[[nn.Module], None]] = []
_starting: list[Runner] = []


def starting_runner() -> Runner | None:
    """The runner that is initializing its model at this moment, None while there is none."""
    return _starting[-1] if _starting else None


@contextlib.contextmanager
def starting(runner: Runner) -> Iterator[None]:
    """Within this context ``runner`` is the one that initializes its model."""
    _starting.append(runner)
    try:
        yield
    finally:
        _starting.pop()


@contextlib.contextmanager
def joined(callbacks: list, *more: Any) -> Iterator[None]:
    """Within this context ``more`` are in one of the lists above, unless they were before."""
    added = [callback for callback in more if callback not in callbacks]
    callbacks += added
    try:
        yield
    finally:
        for callback in added:
            callbacks.remove(callback)


def patch() -> None:
    """Let ``Runner`` call the callbacks above."""
    from_cfg, initialize = Runner.from_cfg.__func__, Runner._init_model_weights
    build_logger, register_hooks = Runner.build_logger, Runner.register_hooks
    build_optim_wrapper, scale_lr = Runner.build_optim_wrapper, Runner.scale_lr

    @functools.wraps(from_cfg)
    def prepare_and_build(cls: type[Runner], cfg: Config) -> Runner:
        for prepare in before_build:
            prepare(cfg)
        return from_cfg(cls, cfg)

    @functools.wraps(build_logger)
    def build_and_adjust(self: Runner, *args: Any, **kwargs: Any) -> logging.Logger:
        logger = build_logger(self, *args, **kwargs)
        for adjust in logger_built:
            adjust(logger)
        return logger

    @functools.wraps(register_hooks)
    def register_more_hooks(self: Runner, *args: Any, **kwargs: Any) -> None:
        register_hooks(self, *args, **kwargs)
        for hook in added_hooks:
            if not any(isinstance(registered, hook) for registered in self.hooks):
                self.register_hook(hook())

    @functools.wraps(initialize)
    def init_model_weights(self: Runner) -> None:
        with starting(self):
            initialize(self)
        for check in after_init:
            check(unwrapped(self.model))

    @functools.wraps(build_optim_wrapper)
    def announce_and_build(self: Runner, optim_wrapper: Any) -> OptimWrapper:
        self.call_hook('before_optim_wrapper')
        return build_optim_wrapper(self, optim_wrapper)

    @functools.wraps(scale_lr)
    def scale_and_announce(self: Runner, *args: Any, **kwargs: Any) -> None:
        scale_lr(self, *args, **kwargs)
        self.call_hook('after_optim_wrapper')

    Runner.from_cfg = classmethod(prepare_and_build)
    Runner.build_logger = build_and_adjust
    Runner.register_hooks = register_more_hooks
    Runner._init_model_weights = init_model_weights
    Runner.build_optim_wrapper = announce_and_build
    Runner.scale_lr = scale_and_announce
