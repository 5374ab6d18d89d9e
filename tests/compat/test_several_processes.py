"""Runs of several processes: gloo without a GPU, and who writes the metrics."""

import contextlib
from unittest import mock

import pytest
import torch
from mmengine import dist
from mmengine.config import Config
from mmengine.dist import utils
from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS
from mmseg.evaluation.metrics import iou_metric
from mmseg.registry import METRICS

from pspnet_plugin.compat import several_processes
from pspnet_plugin.compat.several_processes import fit_to_processes
from tests.helpers.processes import free_port, run_copy, torchrun_variables


def exchange(backend, context):
    """Add a number up over one process, and print by what."""
    with context():
        dist.init_dist('pytorch', backend=backend)
    value = torch.ones(3)
    dist.all_reduce(value)
    print(dist.get_backend(), value.tolist())


def exchanged(folder, backend, context):
    one = {**torchrun_variables(0, free_port()), 'WORLD_SIZE': 1}
    return run_copy(exchange, backend, context, folder=folder, **one)


def test_gloo_starts_exchanges_and_ends_cleanly(tmp_path):
    code, output = exchanged(tmp_path, 'gloo', several_processes.gloo_without_a_gpu)
    assert code == 0, output[-4000:]
    assert output.splitlines()[-1] == 'gloo [1.0, 1.0, 1.0]'


@pytest.mark.parametrize(
    ('backend', 'context'),
    [('gloo', contextlib.nullcontext), ('nccl', several_processes.gloo_without_a_gpu)],
    ids=['stock', 'nccl'],
)
def test_mmengine_by_itself_and_other_backends_ask_for_a_cuda_device(tmp_path, backend, context):
    code, output = exchanged(tmp_path, backend, context)
    assert code != 0
    assert 'set_device' in output


@pytest.mark.parametrize(('device', 'changed'), [('cpu', True), ('mps', True), ('cuda', False)])
def test_mmengine_is_changed_meanwhile_only_and_not_where_there_is_a_gpu(
    monkeypatch, device, changed
):
    monkeypatch.setattr(several_processes, 'get_device', lambda: device)
    before = [utils._init_dist_pytorch, utils._init_dist_slurm]
    with several_processes.gloo_without_a_gpu():
        within = [utils._init_dist_pytorch, utils._init_dist_slurm]
        assert [a is not b for a, b in zip(within, before)] == [changed] * 2
    assert [utils._init_dist_pytorch, utils._init_dist_slurm] == before


# --- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize('several', [False, True])
def test_a_process_that_is_not_the_first_writes_before_the_first_one(
    tmp_path, monkeypatch, several
):
    monkeypatch.setattr(iou_metric, 'is_main_process', lambda: False)
    evaluator = dict(type='IoUMetric', output_dir=str(tmp_path / 'a' / 'b'), format_only=True)
    launcher = 'pytorch' if several else 'none'
    fit_to_processes(
        Config(dict(launcher=launcher, val_evaluator=None, test_evaluator=[evaluator]))
    )
    metric = METRICS.build(evaluator)
    metric.dataset_meta = dict(classes=('lake', 'land'))
    prediction = dict(data=torch.ones(1, 4, 5, dtype=torch.long))
    samples = [dict(pred_sem_seg=prediction, img_path='tile.jpg')]
    if several:
        metric.process({}, samples)
        assert [p.name for p in (tmp_path / 'a' / 'b').iterdir()] == ['tile.png']
    else:  # the first process makes it in time, as stock
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('number', 'writes'), [('0', True), ('1', False)])
def test_the_first_process_alone_writes_the_metrics_of_a_test(
    tmp_path, monkeypatch, number, writes
):
    monkeypatch.setenv('RANK', number)
    cfg = Config(dict(launcher='pytorch', default_hooks=dict(logger=dict(type='LoggerHook'))))
    fit_to_processes(cfg)
    hook = HOOKS.build(cfg.default_hooks.logger)
    assert isinstance(hook, LoggerHook)
    hook.json_log_path = 'metrics.json'
    logs = mock.Mock(**{'get_log_after_epoch.return_value': ({'mIoU': 50.0}, 'mIoU: 50')})
    run = mock.Mock(log_dir=str(tmp_path), log_processor=logs, test_dataloader=[])
    hook.after_test_epoch(run)
    assert (tmp_path / 'metrics.json').exists() == writes
