"""A hook that tells where a run keeps its last learning rate, or has nothing left to train."""

from __future__ import annotations

from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...errors import PspnetPluginError


class ScheduleEndHook(Hook):
    """Says in the log from when on the learning rate keeps its last value, where it does.

    mmengine does so without a word, most often in a run that is resumed to train longer: its
    schedule is that of the checkpoint.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare the length of the run with its schedules and its iteration, restored by now.

        Raises:
            PspnetPluginError: there is no batch to train on.
        """
        images: Any = runner.train_dataloader
        if not len(images) and not isinstance(images.sampler, InfiniteSampler):
            raise PspnetPluginError(
                f'train_dataloader has no batch: {len(images.dataset)} images are fewer than its '
                'batch_size, and drop_last=True leaves them out. Set a smaller batch_size, or '
                'drop_last=False.'
            )
        if runner.iter >= runner.max_iters:
            runner.logger.warning(
                f'The run has trained all its {runner.max_iters} iterations before, and there is '
                'nothing left to do. For more, raise its length in the config.'
            )
        schedulers: Any = runner.param_schedulers or []
        lists = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
        for rates in ([s for s in some if s.param_name == 'lr'] for some in lists):
            unit, length = 'iteration', runner.max_iters
            if any(scheduler.by_epoch for scheduler in rates):
                unit, length = 'epoch', runner.max_epochs
            end = max((scheduler.end for scheduler in rates), default=length)
            if end < length:
                runner.logger.warning(
                    f'The schedule of the learning rate ends at {unit} {end} of {length}, and the '
                    f'rate keeps its last value from there on. {way_out(runner, length)}'
                )


def way_out(runner: Runner, length: int) -> str:
    """What to do for a schedule of the whole run."""
    if runner._resume:
        return (
            'A resumed run keeps the schedule of its checkpoint: to decay over more, begin a run '
            'with load_from in place of resume.'
        )
    return f'Set end={length} in param_scheduler to decay over all of it.'
