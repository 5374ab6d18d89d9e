"""Configs for a GPU on a machine without one."""

import copy

import pytest

from pspnet_plugin.app.training.launch import fit_to_cpu
from pspnet_plugin.speed.cpu_amp import bfloat16_on_this_cpu
from tests.helpers.street_scenes import cityscapes_at


@pytest.fixture
def cityscapes(street_scenes):
    return cityscapes_at(street_scenes)


def test_without_a_gpu_sync_batch_norm_becomes_batch_norm_and_other_norms_stay(cityscapes, capsys):
    fit_to_cpu(cityscapes)
    assert "'SyncBN'" not in repr(cityscapes.model)
    assert capsys.readouterr().out.count('SyncBN') == 1
    before = copy.deepcopy(cityscapes.model)
    fit_to_cpu(cityscapes)
    assert cityscapes.model == before
    assert not capsys.readouterr().out


def test_distributed_run_without_a_gpu_uses_gloo(cityscapes):
    cityscapes.launcher = 'pytorch'
    fit_to_cpu(cityscapes)
    assert cityscapes.env_cfg.dist_cfg.backend == 'gloo'
    assert cityscapes.model_wrapper_cfg.device_ids is None


def test_wrapper_that_the_user_chose_stays(cityscapes):
    cityscapes.launcher = 'pytorch'
    cityscapes.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, a=1)
    fit_to_cpu(cityscapes)
    assert cityscapes.model_wrapper_cfg.a == 1


def test_mixed_precision_without_a_gpu_is_bfloat16_with_one_log_line(cityscapes, capsys):
    cityscapes.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=None)
    fit_to_cpu(cityscapes)
    (line,) = [n for n in capsys.readouterr().out.splitlines() if 'bfloat16' in n]
    assert 'bfloat16, without a loss scale' in line
    assert line.endswith(bfloat16_on_this_cpu())
    assert cityscapes.optim_wrapper.type == 'CpuAmpOptimWrapper'
    assert set(cityscapes.optim_wrapper) == {'type', 'optimizer', 'clip_grad'}
