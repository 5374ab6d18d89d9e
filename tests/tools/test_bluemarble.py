"""The Blue Marble dataset and the demo that trains on it."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.metrics import metrics_of_files
from tests.helpers.processes import ROOT, run_script

OCEAN, LAND, LAKE = 0, 1, 2
PREPARE = ROOT / 'tools' / 'datasets' / 'prepare_bluemarble.py'


def load(script):
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def tool():
    return load(PREPARE)


@pytest.fixture(scope='module')
def dataset(tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'bluemarble'
    tool.prepare(folder)
    return folder


@pytest.mark.parametrize(
    ('place', 'latitude', 'longitude', 'expected'),
    [
        ('Sahara', 23, 10, LAND),
        ('Siberia', 65, 100, LAND),
        ('middle of Australia', -25, 135, LAND),
        ('Pacific', 0, -140, OCEAN),
        ('North Atlantic', 45, -40, OCEAN),
        ('Lake Victoria', -1, 33, LAKE),
        ('Lake Superior', 47.7, -87.5, LAKE),
    ],
)
def test_labels_say_what_the_atlas_says(tool, place, latitude, longitude, expected):
    row, column = round((90 - latitude) * 15), round((longitude + 180) * 15)
    assert tool.read_label_map()[row, column] == expected, place


def test_the_image_lies_under_its_labels(tool):
    """Oceans of Blue Marble are blue and land is not: labels upside down would not fit."""
    image, labels = tool.read_image().astype(int), tool.read_label_map()
    blue = image[..., 2] > image[..., 0] + 10
    tropics = slice(1000, 1700)  # no ice, no clouds
    agreement = np.mean(blue[tropics] == (labels[tropics] == OCEAN))
    upside_down = np.mean(blue[tropics] == (labels[::-1][tropics] == OCEAN))
    assert agreement > 0.95 > upside_down + 0.1


def test_train_and_val_tiles_lie_in_different_longitudes(dataset):
    columns = {
        split: {path.stem.split('_')[1] for path in (dataset / 'images' / split).iterdir()}
        for split in ('train', 'val')
    }
    assert columns['train']
    assert columns['val']
    assert not columns['train'] & columns['val']


def test_every_tile_is_the_part_of_the_image_that_its_name_says(dataset, tool):
    whole = {'images': tool.read_image(), 'labels': tool.read_label_map()}
    named = {kind: sorted((dataset / kind).rglob('*.png')) for kind in whole}
    assert [tile.name for tile in named['images']] == [tile.name for tile in named['labels']]
    for kind, tiles in named.items():
        for tile in tiles:
            row, column = map(int, tile.stem.split('_'))
            with Image.open(tile) as image:
                expected = whole[kind][row : row + 256, column : column + 256]
                np.testing.assert_array_equal(np.asarray(image), expected)


def test_tiles_of_almost_pure_ocean_are_left_out(dataset, tool):
    labels, written = tool.read_label_map(), {path.name for path in dataset.rglob('labels/*/*.png')}
    for row in range(0, 2700 - 255, 256):
        for column in range(0, 5400 - 255, 256):
            ocean = np.mean(labels[row : row + 256, column : column + 256] == OCEAN)
            assert (f'{row:04d}_{column:04d}.png' in written) == (ocean <= 0.97)


def test_dataset_that_is_there_is_kept(tmp_path, capsys):
    (tmp_path / 'mine.txt').touch()
    assert not run_script(PREPARE, tmp_path)
    assert 'is there already' in capsys.readouterr().out
    assert (tmp_path / 'mine.txt').exists()


def test_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / 'mine.txt').touch()
    assert 'name another folder' in run_script(PREPARE, tmp_path, '--overwrite')
    assert (tmp_path / 'mine.txt').exists()


# --- the demo -----------------------------------------------------------------------------------


@pytest.fixture
def few_tiles(dataset, tmp_path):
    """A copy of the dataset with eight tiles in each split."""
    folder = tmp_path / 'data' / 'bluemarble'
    for split in ('train', 'val'):
        names = sorted(path.name for path in (dataset / 'images' / split).iterdir())[::3][:8]
        for kind in ('images', 'labels'):
            (folder / kind / split).mkdir(parents=True)
            for name in names:
                shutil.copy(dataset / kind / split / name, folder / kind / split)
    return folder


def test_the_figure_has_a_row_for_image_label_and_each_prediction(few_tiles, tmp_path):
    colours = [[28, 66, 120], [120, 140, 60], [90, 200, 250]]
    predictions = {'all ocean': OCEAN, 'all land': LAND}
    for name, label in predictions.items():
        (tmp_path / name).mkdir()
        for path in (few_tiles / 'labels' / 'val').iterdir():
            Image.fromarray(np.full((256, 256), label, np.uint8)).save(tmp_path / name / path.name)
    demo = load(ROOT / 'tools' / 'demo.py')
    figure = tmp_path / 'figure.png'
    demo.draw(few_tiles, {name: tmp_path / name for name in predictions}, colours, figure)
    with Image.open(figure) as image:
        pixels = np.asarray(image.convert('RGB'))
    rows = np.split(pixels[:, 100:], 4)  # without the names of the rows
    shown = [[(row == colour).all(axis=-1).any() for colour in colours[:2]] for row in rows]
    assert shown[1:] == [[True, True], [True, False], [False, True]]
    assert len(np.unique(rows[0].reshape(-1, 3), axis=0)) > len(
        np.unique(rows[1].reshape(-1, 3), axis=0)
    )


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
