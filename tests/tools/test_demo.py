"""The demo: trains, tests, prints a table and draws a figure."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.metrics import metrics_of_files
from tests.helpers.processes import ROOT, load_script, run_script


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


@pytest.fixture
def tools_in_this_process(monkeypatch):
    """Commands that start a tool run it here: four times the imports would take half a minute."""
    start = subprocess.run

    def run(command, **options):
        if command[0] != sys.executable or not command[1].startswith(str(ROOT / 'tools')):
            return start(command, **options)
        code = run_script(Path(command[1]), *command[2:])
        return subprocess.CompletedProcess(command, code if isinstance(code, int) else bool(code))

    monkeypatch.setattr(subprocess, 'run', run)


def test_demo_runs_to_table_and_figure_and_then_starts_from_what_is_there(
    few_tiles, tools_in_this_process, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    command = [ROOT / 'tools' / 'demo.py', '--work-dir', 'runs', '--iterations', 2]
    assert run_script(*command) == 0
    output = capfd.readouterr().out
    called = re.findall(r'^\$ python tools/(\S+)', output, re.MULTILINE)
    assert called == ['datasets/prepare_bluemarble.py', *2 * ['train.py', 'test.py']]
    table = re.findall(r'(ImageNet|random) weights *│ *([\d.]+) *│ *([\d.]+)', output)
    assert [name for name, *_ in table] == ['ImageNet', 'random']
    label_maps = {path.name: path for path in (few_tiles / 'labels' / 'val').iterdir()}
    for name, accuracy, iou in table:
        predictions = tmp_path / 'runs' / f'{name}_weights_2' / 'predictions'
        expected = metrics_of_files(predictions, label_maps, 3)
        shown = {'aAcc': float(accuracy), 'mIoU': float(iou)}
        assert shown == pytest.approx(expected, abs=0.06)
    assert (tmp_path / 'runs' / 'comparison.png').is_file()

    assert run_script(*command) == 0
    again = capfd.readouterr().out
    assert re.findall(r'^\$ python tools/(\S+)', again, re.MULTILINE) == called[:1]
    assert again[again.index('start from') :] == output[output.rindex('start from') :]
