"""The Blue Marble dataset: its labels, its tiles and its two splits."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.processes import ROOT, load_script, run_script

WATER, LAND = 0, 1
PREPARE = ROOT / 'tools' / 'datasets' / 'prepare_bluemarble.py'


@pytest.fixture(scope='module')
def tool():
    return load_script(PREPARE)


@pytest.mark.parametrize(
    ('place', 'latitude', 'longitude', 'expected'),
    [
        ('Sahara', 23, 10, LAND),
        ('Siberia', 65, 100, LAND),
        ('middle of Australia', -25, 135, LAND),
        ('Pacific', 0, -140, WATER),
        ('North Atlantic', 45, -40, WATER),
        ('Lake Victoria', -1, 33, WATER),
        ('Lake Superior', 47.7, -87.5, WATER),
    ],
)
def test_labels_say_what_the_atlas_says(tool, place, latitude, longitude, expected):
    row, column = round((90 - latitude) * 15), round((longitude + 180) * 15)
    assert tool.read_label_map()[row, column] == expected, place


def test_the_image_lies_under_its_labels(tool):
    """The oceans of Blue Marble are blue and land is not: labels upside down would not fit."""
    image, labels = tool.read_image().astype(int), tool.read_label_map()
    blue = image[..., 2] > image[..., 0] + 10
    tropics = slice(1000, 1700)  # no ice, no clouds
    agreement = np.mean(blue[tropics] == (labels[tropics] == WATER))
    upside_down = np.mean(blue[tropics] == (labels[::-1][tropics] == WATER))
    assert agreement > 0.95 > upside_down + 0.1


def test_train_and_val_tiles_lie_in_different_longitudes(bluemarble):
    columns = {
        split: {path.stem.split('_')[1] for path in (bluemarble / 'images' / split).iterdir()}
        for split in ('train', 'val')
    }
    assert columns['train']
    assert columns['val']
    assert not columns['train'] & columns['val']


def test_every_tile_is_the_part_of_the_image_that_its_name_says(bluemarble, tool):
    whole = {'images': tool.read_image(), 'labels': tool.read_label_map()}
    named = {kind: sorted((bluemarble / kind).rglob('*.png')) for kind in whole}
    assert [tile.name for tile in named['images']] == [tile.name for tile in named['labels']]
    for kind, tiles in named.items():
        for tile in tiles:
            row, column = map(int, tile.stem.split('_'))
            with Image.open(tile) as image:
                expected = whole[kind][row : row + 256, column : column + 256]
                np.testing.assert_array_equal(np.asarray(image), expected)


def test_tiles_of_almost_pure_water_are_left_out(bluemarble, tool):
    labels = tool.read_label_map()
    written = {path.name for path in bluemarble.rglob('labels/*/*.png')}
    for row in range(0, 2700 - 255, 256):
        for column in range(0, 5400 - 255, 256):
            water = np.mean(labels[row : row + 256, column : column + 256] == WATER)
            assert (f'{row:04d}_{column:04d}.png' in written) == (water <= 0.97)


def test_a_folder_that_is_there_is_kept(tmp_path, capsys):
    (tmp_path / 'mine.txt').touch()
    assert not run_script(PREPARE, tmp_path)
    assert 'is there already' in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ['mine.txt']
