"""The demo: trains on few and on many labels, prints a table and draws two figures."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pspnet_plugin import init_model, predict
from tests.helpers.metrics import metrics_of_files
from tests.helpers.processes import ROOT, load_script


@pytest.fixture
def few_tiles(bluemarble, tmp_path):
    """A copy of the dataset with four tiles in each split."""
    folder = tmp_path / 'data' / 'bluemarble'
    for split in ('train', 'val'):
        names = sorted(path.name for path in (bluemarble / 'images' / split).iterdir())[::6][:4]
        for kind in ('images', 'labels'):
            (folder / kind / split).mkdir(parents=True)
            for name in names:
                shutil.copy(bluemarble / kind / split / name, folder / kind / split)
    return folder


@pytest.fixture
def demo(few_tiles, tmp_path, monkeypatch):
    """The demo of one run from each start, on four tiles; it returns the lines of its table."""
    script = load_script(ROOT / 'tools' / 'demo.py')
    short = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'param_scheduler.0.end=2']
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, 'FEW', (list(script.STARTS.values()), [4], [0]))
    monkeypatch.setattr(sys, 'argv', ['demo.py', '--work-dir', 'runs', '--cfg-options', *short])
    return script


def test_demo_runs_to_table_figures_and_next_steps_and_then_starts_from_what_is_there(
    demo, few_tiles, tmp_path, capfd
):
    demo.main()
    output = capfd.readouterr().out
    called = re.findall(r'^\$ python tools/(\S+)', output, re.MULTILINE)
    assert called == ['datasets/prepare_bluemarble.py', 'analysis/compare_finetuning.py']
    assert 'pspnet init' in output
    assert len(output.splitlines()) < 40
    table = re.findall(r'^\| (full|from_scratch) +\| +([\d.]+) ', output, re.MULTILINE)
    assert [recipe for recipe, _ in table] == ['full', 'from_scratch']
    label_maps = {path.name: path for path in (few_tiles / 'labels' / 'val').iterdir()}
    for recipe, iou in table:
        run = tmp_path / 'runs' / 'few' / f'{recipe}_4_images_seed_0'
        model = init_model(ROOT / 'configs' / 'finetune' / f'{recipe}.py', run / 'iter_2.pth')
        for predicted in predict(model, few_tiles / 'images' / 'val'):
            Image.fromarray(predicted.label_map).save(run / Path(predicted.path).name)
        expected = metrics_of_files(run, label_maps, 2)['mIoU']
        assert float(iou) == pytest.approx(expected, abs=0.06)
    assert (tmp_path / 'runs' / 'few' / 'few_labels.png').is_file()
    with Image.open(tmp_path / 'runs' / 'few' / 'comparison.png') as figure:
        image, *drawn = np.split(np.asarray(figure.convert('RGB'))[:, 100:], 4)
    colours = [{tuple(pixel) for pixel in row.reshape(-1, 3)} for row in (image, *drawn)]
    assert all(len(colours[0]) > len(found) for found in colours[1:])  # a photo over label maps
    assert {(28, 66, 120), (120, 140, 60)} <= colours[1]

    demo.main()
    rows = re.compile(r'^\| f.*', re.MULTILINE)
    assert rows.findall(capfd.readouterr().out) == rows.findall(output)
