"""A run that is longer than the schedule of its learning rate says so."""

import logging

import pytest

from pspnet_plugin.app.training.schedule_end import ScheduleEndHook
from pspnet_plugin.errors import PspnetPluginError
from tests.helpers.freezing_runs import loader, make_runner


def run(work_dir, caplog, end, max_iters, **settings):
    schedule = dict(type='PolyLR', eta_min=1e-4, begin=0, by_epoch=False)
    schedules = [dict(type='LinearLR', by_epoch=False, begin=0, end=1), dict(schedule, end=end)]
    saving = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}}
    runner = make_runner(
        work_dir, ScheduleEndHook(), max_iters=max_iters, param_scheduler=schedules,
        default_hooks=saving, **settings)  # fmt: skip
    runner.logger.addHandler(caplog.handler)
    runner.logger.setLevel(logging.WARNING)
    caplog.clear()
    runner.train()
    return [r.getMessage() for r in caplog.records if 'schedule' in r.getMessage()]


@pytest.mark.parametrize('end', [3, 6, 9])
def test_a_schedule_that_ends_before_the_run_is_told_with_the_way_out(tmp_path, caplog, end):
    told = run(tmp_path, caplog, end, 6)
    assert len(told) == (end < 6)
    if told:
        assert 'ends at iteration 3 of 6' in told[0]
        assert 'Set end=6 in param_scheduler' in told[0]


def test_a_resumed_run_is_told_that_its_schedule_is_that_of_the_checkpoint(tmp_path, caplog):
    assert not run(tmp_path, caplog, 2, 2)
    # mmengine restores the schedule, whatever the config says now.
    (told,) = run(tmp_path, caplog, 5, 5, resume=True)
    assert 'ends at iteration 2 of 5' in told
    assert 'load_from in place of resume' in told


@pytest.mark.parametrize('epochs', [False, True])
def test_a_run_without_a_batch_is_no_run(tmp_path, epochs):
    length = {'by_epoch': True, 'max_epochs': 2} if epochs else {'by_epoch': False, 'max_iters': 2}
    settings = {'train_cfg': length, 'default_hooks': {'logger': None}}
    images = {**loader(), 'batch_size': 13, 'drop_last': True}
    runner = make_runner(tmp_path, ScheduleEndHook(), train_dataloader=images, **settings)
    with pytest.raises(PspnetPluginError, match='no batch: 12 images are fewer'):
        runner.train()
    endless = {**images, 'sampler': {'type': 'InfiniteSampler', 'shuffle': False}}
    runner = make_runner(tmp_path, ScheduleEndHook(), train_dataloader=endless, max_iters=1)
    runner.train()
    assert runner.iter == 1
