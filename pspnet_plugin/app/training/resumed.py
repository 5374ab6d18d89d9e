"""A hook that compares a checkpoint with the run that is resumed from it.

mmengine loads what happens to fit, and takes the optimizer's settings from the checkpoint.
"""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...errors import PspnetPluginError
from ...freezing.optimizer import by_name
from .checkpoints import differences, segmentor_of, weights_in

KINDS = 'momentum', 'betas', 'alpha', 'rho'  # settings by which optimizers differ in kind
ANEW = 'begin a run from its weights: load_from, without resume.'


class ResumeError(PspnetPluginError):
    """A run cannot go on from a checkpoint."""


class SameRunHook(Hook):
    """Before a run is resumed: the checkpoint has all of its state, and of its kind."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare with the model, the optimizer and the schedules that the config has built.

        The log tells settings of the config that have no effect.

        Raises:
            ResumeError: something is missing, or of another kind.
        """
        if not runner._resume:
            return
        told = differences(segmentor_of(runner), weights_in(checkpoint))
        if told:
            raise other_than_config(f'another model ({told})')
        if 'optimizer' not in checkpoint:
            raise ResumeError(
                'The checkpoint to resume from has no optimizer and no schedules in it, as the '
                'best one of a run, and they would begin anew: take the last one (iter_*.pth, '
                f'epoch_*.pth), or {ANEW}'
            )
        saved, lost = checkpoint['optimizer'], []
        for name, wrapper in by_name(runner.optim_wrapper).items():
            before = (saved[name] if name else saved)['param_groups']
            lost += settings_lost(before, wrapper.optimizer.param_groups)
        if lost:
            runner.logger.warning(
                'A resumed run keeps the optimizer of its checkpoint, whatever the config says: '
                f'{", ".join(dict.fromkeys(lost))}. For other values, {ANEW}'
            )
        schedules = checkpoint.get('param_schedulers'), runner.param_schedulers
        if not any(isinstance(some, dict) for some in schedules):  # as for several optimizers
            states = [scheduler.state_dict() for scheduler in schedules[1] or ()]
            if list(map(set, states)) != list(map(set, schedules[0] or ())):
                raise other_than_config('other schedules (param_scheduler)')


def settings_lost(saved: list[dict], groups: list[dict]) -> list[str]:
    """In which numbers an optimizer's groups differ from those of a checkpoint."""
    kinds = [
        [(len(group['params']), [name for name in KINDS if name in group]) for group in some]
        for some in (saved, groups)
    ]
    if kinds[0] != kinds[1]:
        raise other_than_config(
            'another optimizer, or other parameters in its groups (paramwise_cfg, a head more or '
            'less)'
        )
    return [
        f'{name} is {was} and not {now}'
        for before, group in zip(map(settings_of, saved), map(settings_of, groups))
        for name, now in group.items()
        if (was := before.get(name, now)) != now
    ]


def settings_of(group: dict) -> dict[str, Any]:
    """The numbers that a config gives to a group, as they are before schedules change them."""
    names = 'lr', 'weight_decay', *KINDS
    return {name: group.get(f'initial_{name}', group[name]) for name in names if name in group}


def other_than_config(what: str) -> ResumeError:
    return ResumeError(
        f'The checkpoint to resume from has {what} than the config. Resume with the config that '
        f'it was trained with, or {ANEW}'
    )
