"""The Blue Marble dataset and the demo that trains on it."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.processes import ROOT, run_python

OCEAN, LAND, LAKE = 0, 1, 2


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def tool():
    return load_tool('datasets/prepare_bluemarble')


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


def test_picture_lies_under_its_labels(tool):
    """Oceans of Blue Marble are blue and land is not: labels upside down would not fit."""
    picture, labels = tool.read_picture().astype(int), tool.read_label_map()
    blue = picture[..., 2] > picture[..., 0] + 10
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


def test_every_tile_has_its_label_map_of_three_classes(dataset, tool):
    images = sorted((dataset / 'images').rglob('*.png'))
    assert len(images) > 80
    for image in images:
        label_map = np.asarray(Image.open(str(image).replace('images', 'labels')))
        assert label_map.shape == np.asarray(Image.open(image)).shape[:2] == (256, 256)
        assert set(np.unique(label_map)) <= {OCEAN, LAND, LAKE}
        assert np.mean(label_map == OCEAN) <= tool.MAX_OCEAN


def test_dataset_that_is_there_is_kept(dataset):
    marker = dataset / 'mine.txt'
    marker.touch()
    code, output = run_python(ROOT / 'tools' / 'datasets' / 'prepare_bluemarble.py', dataset)
    assert code == 0
    assert 'is there already' in output
    assert marker.exists()


def test_demo_runs_to_table_and_picture_and_then_starts_from_what_is_there(tmp_path):
    command = [ROOT / 'tools' / 'demo.py', '--work-dir', tmp_path / 'runs', '--iterations', 2]
    code, output = run_python(*command, cwd=tmp_path)
    assert code == 0, output[-4000:]
    assert output.count('$ python tools/train.py') == output.count('$ python tools/test.py') == 2
    rows = re.findall(r'(ImageNet weights|random weights) *│ *[\d.]+ *│ *[\d.]+', output)
    assert rows == ['ImageNet weights', 'random weights']
    picture = Path(tmp_path / 'runs' / 'comparison.png')
    assert Image.open(picture).width > 400

    code, again = run_python(*command, cwd=tmp_path)
    assert code == 0, again
    assert '$ python tools/train.py' not in again
    assert again[again.index('start from') :] == output[output.rindex('start from') :]
