"""In runs of several processes each can write its metrics, and one writes the file of all."""

from unittest import mock

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS
from mmseg.evaluation.metrics import iou_metric
from mmseg.registry import METRICS

from pspnet_plugin.compat.metric_files import fit_to_processes


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
