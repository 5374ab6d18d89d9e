"""The confusion matrix of a run, on its validation images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.reports.confusion import confusion_figure
from pspnet_plugin.app.reports.figures import save
from pspnet_plugin.app.reports.metrics import count_pairs
from pspnet_plugin.app.reports.runs import read_run, timeline_of
from tests.helpers.folders import make_folders
from tests.helpers.street_scenes import NARROW_OWN_DATA


def test_a_run_is_drawn_and_the_miou_of_its_matrix_is_that_of_its_validation(here, capsys):
    make_folders(here)
    assert main(['init', 'images', 'masks', '--out', 'mine', '--iterations', '3']) == 0
    cfg = Config.fromfile('mine/mine.py')
    cfg.merge_from_dict(NARROW_OWN_DATA)
    freezing = dict(freeze=['backbone'], schedule=[dict(at=2, unfreeze=['backbone'])])
    cfg.custom_hooks = [dict(type='LayerFreezeHook', **freezing)]
    cfg.work_dir = str(here / 'run')
    # Runs of one process share what has one name, also the file that is logged to.
    cfg.visualizer.name = str(here)
    runner = Runner.from_cfg(cfg)
    runner.train()
    validated = runner.message_hub.get_scalar('val/mIoU').current()
    assert main(['plot', 'run', '--out', 'curves.png']) == 0
    assert f', the last {validated:.1f}' in capsys.readouterr().out
    shown = timeline_of(read_run(here / 'run'))
    assert list(shown.trainable[shown.parts.index('backbone.stages[0]')]) == [0, 0, 1]
    assert main(['plot', 'run', '--confusion', 'run/iter_3.pth', '--out', 'confusion.png']) == 0
    assert float(capsys.readouterr().out.split('mIoU ')[1].split()[0]) == pytest.approx(
        validated, abs=0.011
    )
    assert Image.open('confusion.png').size[0] > 100
    (config,) = map(str, Path('run').glob('*/vis_data/config.py'))
    words = ['report', config, 'run/iter_3.pth', 'run/iter_3.pth', '--out', 'page/report.html']
    assert main(words) == 0
    told = re.findall(
        r'mIoU ([\d.]+) \(95 % interval ([\d.]+) to ([\d.]+)', capsys.readouterr().out
    )
    assert float(told[0][0]) == pytest.approx(validated, abs=0.06)
    page = Path('page/report.html').read_text()
    assert 'pspnet report' in page
    assert 'alt="curves"' in page
    assert '0.00 to 0.00' in page  # a checkpoint differs in nothing from itself
    data = json.loads(re.search('type="application/json">(.*?)</script>', page, re.S)[1])
    assert sorted(image['name'] for image in data['images']) == sorted(
        f'{name}.png' for name in Path('mine/val.txt').read_text().split()
    )
    assert data['images'][0]['iou'][0] == data['images'][0]['iou'][1]


def test_pixels_are_counted_by_label_and_prediction_without_the_ignored():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 255], (40, 50)).astype(np.uint8)
    predicted = rng.choice([0, 1, 2, 3, 255], (40, 50)).astype(np.uint8)  # 255: without data
    kept = (labels != 255) & (predicted != 255)
    expected, _, _ = np.histogram2d(labels[kept], predicted[kept], bins=np.arange(5) - 0.5)
    np.testing.assert_array_equal(count_pairs(labels, predicted, 4), expected)


def test_a_row_is_a_label_and_dark_where_its_pixels_went(tmp_path):
    counts = np.array([[0, 30, 0], [0, 20, 0], [0, 0, 0]])
    save(confusion_figure(counts, ['a', 'b', 'c']), tmp_path / 'matrix.png')
    with Image.open(tmp_path / 'matrix.png') as image:
        pixels = np.asarray(image.convert('RGB'))
    dark = (pixels == (8, 48, 107)).all(2)[:, : pixels.shape[1] * 3 // 4]
    rows, columns = np.nonzero(dark)
    height, width = np.ptp(rows), np.ptp(columns)
    assert height == pytest.approx(2 * width, rel=0.05)  # both labels, one column
