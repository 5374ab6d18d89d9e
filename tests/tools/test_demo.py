"""The demo: trains on few and on many labels, prints a table and draws two figures."""

import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.metrics import metrics_of_files
from tests.helpers.processes import ROOT, load_script


@pytest.fixture
def few_tiles(bluemarble, tmp_path):
    """A copy of the dataset with eight tiles in each split."""
    folder = tmp_path / 'data' / 'bluemarble'
    for split in ('train', 'val'):
        names = sorted(path.name for path in (bluemarble / 'images' / split).iterdir())[::3][:8]
        for kind in ('images', 'labels'):
            (folder / kind / split).mkdir(parents=True)
            for name in names:
                shutil.copy(bluemarble / kind / split / name, folder / kind / split)
    return folder


def test_the_figure_has_a_row_for_image_label_and_each_prediction(few_tiles, tmp_path):
    colours = [[28, 66, 120], [120, 140, 60], [90, 200, 250]]
    predictions = {'all ocean': 0, 'all land': 1}
    for name, label in predictions.items():
        (tmp_path / name).mkdir()
        for path in (few_tiles / 'labels' / 'val').iterdir():
            Image.fromarray(np.full((256, 256), label, np.uint8)).save(tmp_path / name / path.name)
    demo = load_script(ROOT / 'tools' / 'demo.py')
    figure = tmp_path / 'figure.png'
    demo.draw(few_tiles, {name: tmp_path / name for name in predictions}, colours, figure)
    with Image.open(figure) as image:
        pixels = np.asarray(image.convert('RGB'))
    rows = np.split(pixels[:, 100:], 4)  # without the names of the rows
    shown = [[(row == colour).all(axis=-1).any() for colour in colours[:2]] for row in rows]
    assert shown[1:] == [[True, True], [True, False], [False, True]]
    colour_counts = [len(np.unique(row.reshape(-1, 3), axis=0)) for row in rows]
    assert colour_counts[0] > max(colour_counts[1:])  # a photograph above label maps


def test_demo_runs_to_table_and_figures_and_then_starts_from_what_is_there(
    few_tiles, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    demo = load_script(ROOT / 'tools' / 'demo.py')
    monkeypatch.setattr(demo, 'LABELLED', (4,))
    monkeypatch.setattr(demo, 'SHOWN', 4)
    monkeypatch.setattr(demo, 'SEEDS', (0,))
    monkeypatch.setattr(sys, 'argv', ['demo.py', '--work-dir', 'runs', '--iterations', '2'])
    demo.main()
    output = capfd.readouterr().out
    called = re.findall(r'^\$ python tools/(\S+)', output, re.MULTILINE)
    first = ['datasets/prepare_bluemarble.py', 'analysis/compare_finetuning.py']
    assert called == [*first, 'test.py', 'test.py']
    rows = '|'.join(demo.STARTS.values())
    table = re.findall(rf'^\| ({rows}) +\| +([\d.]+) ', output, re.MULTILINE)
    assert [recipe for recipe, _ in table] == list(demo.STARTS.values())
    label_maps = {path.name: path for path in (few_tiles / 'labels' / 'val').iterdir()}
    for recipe, iou in table:
        predictions = tmp_path / 'runs' / 'few' / f'{recipe}_4_images_seed_0' / 'predictions'
        expected = metrics_of_files(predictions, label_maps, 3)['mIoU']
        assert float(iou) == pytest.approx(expected, abs=0.06)
    for figure in ('comparison.png', 'few_labels.png'):
        assert (tmp_path / 'runs' / 'few' / figure).is_file()

    demo.main()
    again = capfd.readouterr().out
    assert re.findall(r'^\$ python tools/(\S+)', again, re.MULTILINE) == first
    assert re.findall(rf'^\| (?:{rows}) .*', again, re.MULTILINE) == re.findall(
        rf'^\| (?:{rows}) .*', output, re.MULTILINE
    )
