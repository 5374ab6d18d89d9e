"""A model's step done by something else while a loop of a runner runs, and no longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from mmengine.runner import BaseLoop, Runner
from torch import nn


class RestoringRun:
    """A loop's ``run`` that undoes what hooks changed for its time, whatever ends it.

    A hook cannot do that: an error or Ctrl-C in a loop leaves it without a call of any hook.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run
        self.changes: list[Callable[[], None]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.run(*args, **kwargs)
        finally:
            while self.changes:
                self.changes.pop()()


def watch_loops(runner: Runner) -> None:
    """Have the loops of ``runner`` undo changes; called before they run."""
    for loop in (runner._train_loop, runner._val_loop, runner._test_loop):
        if isinstance(loop, BaseLoop):
            _restoring(loop)


def replace_step(
    loop: BaseLoop | None, model: nn.Module, name: str, step: Callable[..., Any]
) -> Callable[[], None]:
    """Replace a method of ``model`` such as ``val_step`` until ``loop``, if there is one, ends.

    Returns:
        What gives the model its own step back before that.
    """
    own = [vars(model).get(name)]
    setattr(model, name, step)

    def put_back() -> None:
        if own:
            delattr(model, name)
            replaced = own.pop()
            if replaced is not None:  # as torch.compile sets it
                setattr(model, name, replaced)

    if loop is not None:  # hooks may be called without one
        _restoring(loop).changes.append(put_back)
    return put_back


def _restoring(loop: BaseLoop) -> RestoringRun:
    if not isinstance(loop.run, RestoringRun):
        loop.run = RestoringRun(loop.run)
    return cast(RestoringRun, loop.run)
