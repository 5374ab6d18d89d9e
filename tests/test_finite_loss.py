"""A run whose loss is no number ends at that iteration, and what was saved before stays good."""

from __future__ import annotations

import pytest
import torch
from mmengine.hooks import Hook

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.finite_loss import StopAtNonFiniteLossHook
from tests.helpers.freezing_runs import Net, make_runner, saving


class Breaks(Net):
    """Its loss is ``value`` from the given call on."""

    def __init__(self, value, first):
        super().__init__()
        self.value, self.calls_left = value, first

    def forward(self, x, mode='loss'):
        losses = super().forward(x, mode)
        self.calls_left -= 1
        return losses if self.calls_left >= 0 else {'loss': losses['loss'] * self.value}


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_the_error_names_the_iteration_and_the_last_whole_checkpoint(tmp_path, value):
    hook = StopAtNonFiniteLossHook()
    runner = make_runner(tmp_path, hook, model=Breaks(value, 3), **saving(1))
    with pytest.raises(PspnetPluginError, match=f'at iteration 3 .loss {value}') as raised:
        runner.train()
    last = tmp_path / 'iter_3.pth'
    assert f'is {last}.' in str(raised.value)
    assert sorted(tmp_path.glob('*.pth')) == [tmp_path / f'iter_{n}.pth' for n in (1, 2, 3)]
    weights = torch.load(last, weights_only=False)['state_dict']
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_without_a_checkpoint_the_error_says_so(tmp_path):
    runner = make_runner(tmp_path, StopAtNonFiniteLossHook(), model=Breaks(float('nan'), 0))
    with pytest.raises(PspnetPluginError, match='at iteration 0 .*No checkpoint'):
        runner.train()


class Scaler:
    """Of mixed precision: each step that it skips halves the scale."""

    def __init__(self):
        self.scale = 8.0

    def is_enabled(self):
        return True

    def get_scale(self):
        return self.scale


class HalveScale(Hook):
    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.optim_wrapper.loss_scaler.scale /= 2


def test_a_step_that_mixed_precision_skips_does_not_end_the_run(tmp_path):
    hooks = [StopAtNonFiniteLossHook(), HalveScale()]
    runner = make_runner(tmp_path, *hooks, model=Breaks(float('nan'), 0))
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper.loss_scaler = Scaler()
    with pytest.raises(PspnetPluginError, match='at iteration 3 '):
        runner.train()
