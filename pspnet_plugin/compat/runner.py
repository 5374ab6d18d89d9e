"""Moments of a run for which mmengine's ``Runner`` has no hook.

Wrong: hooks are built after the config was read and the model's weights initialized, so none can
look at a config before anything is built from it, join every run, or look at the initial weights.

Changed, for as long as the process runs, here and nowhere else in the plugin: ``Runner.from_cfg``,
``Runner.build_logger``, ``Runner.register_hooks`` and ``Runner._init_model_weights`` also do what
these lists say:

- :data:`before_build`: functions of a config, called before a runner is built from it;
- :data:`logger_built`: functions of the run's logger, called before anything is logged;
- :data:`added_hooks`: hook classes that every run gets, unless it has one of that class;
- :data:`after_init`: functions of the model, called when the runner has initialized its weights.

Unnecessary as soon as mmengine's hooks have these moments.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

from mmengine.config import Config
from mmengine.hooks import Hook
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


@functools.cache  # twice is the same as once
def patch() -> None:
    """Give ``Runner`` the moments above."""
    from_cfg = Runner.from_cfg.__func__
    build_logger = Runner.build_logger
    register_hooks, initialize = Runner.register_hooks, Runner._init_model_weights

    @functools.wraps(from_cfg)
    def prepare_and_build(cls, cfg):
        for prepare in before_build:
            prepare(cfg)
        return from_cfg(cls, cfg)

    @functools.wraps(build_logger)
    def build_and_adjust(self, *args, **kwargs):
        logger = build_logger(self, *args, **kwargs)
        for adjust in logger_built:
            adjust(logger)
        return logger

    @functools.wraps(register_hooks)
    def register_more_hooks(self, *args, **kwargs):
        register_hooks(self, *args, **kwargs)
        for hook in added_hooks:
            if not any(isinstance(registered, hook) for registered in self.hooks):
                self.register_hook(hook())

    @functools.wraps(initialize)
    def init_model_weights(self):
        with starting(self):
            initialize(self)
        for check in after_init:
            check(unwrapped(self.model))

    Runner.from_cfg = classmethod(prepare_and_build)
    Runner.build_logger = build_and_adjust
    Runner.register_hooks = register_more_hooks
    Runner._init_model_weights = init_model_weights
