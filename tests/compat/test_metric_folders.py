import pytest
import torch
from mmengine.config import Config
from mmseg.evaluation.metrics import iou_metric
from mmseg.registry import METRICS

import pspnet_plugin  # noqa: F401
from pspnet_plugin.compat import runner


@pytest.mark.parametrize('several', [False, True])
def test_a_process_that_is_not_the_first_writes_before_the_first_one(
    tmp_path, monkeypatch, several
):
    monkeypatch.setattr(iou_metric, 'is_main_process', lambda: False)
    evaluator = dict(type='IoUMetric', output_dir=str(tmp_path / 'a' / 'b'), format_only=True)
    launcher = 'pytorch' if several else 'none'
    for prepare in runner.before_build:
        prepare(Config(dict(launcher=launcher, val_evaluator=None, test_evaluator=[evaluator])))
    metric = METRICS.build(evaluator)
    metric.dataset_meta = dict(classes=('lake', 'land'))
    prediction = dict(data=torch.ones(1, 4, 5, dtype=torch.long))
    samples = [dict(pred_sem_seg=prediction, img_path='tile.jpg')]
    if several:
        metric.process({}, samples)
        assert [p.name for p in (tmp_path / 'a' / 'b').iterdir()] == ['tile.png']
    else:  # the first process makes it in time, as stock
        assert list(tmp_path.iterdir()) == []
