"""The split: no near-duplicates across it, and every class where it can be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from pspnet_plugin.app.own_data.masks import Mask
from pspnet_plugin.app.own_data.pairs import Pair, pair_files
from pspnet_plugin.app.own_data.scan import ImageStatistics, scan
from pspnet_plugin.app.own_data.split import SAME, groups_of_duplicates, split
from tests.helpers.folders import image_of, make_folders, mask_of

NOTHING = np.zeros(3)


def image(number: int, thumbnail: np.ndarray, classes: set[int] = frozenset()) -> ImageStatistics:
    pair = Pair(str(number), Path(f'{number}.png'), Path(f'{number}.png'))
    mask = Mask(pair.mask, Counter({(value,): 10 for value in classes}))
    return ImageStatistics(pair, (8, 8), 3, 'uint8', thumbnail, NOTHING, NOTHING, mask=mask)


def scene(number: int) -> np.ndarray:
    """The thumbnail that all near-duplicates of one scene have here."""
    return np.random.default_rng(number).random((16, 16), np.float32)


def split_of(images, classes):
    return split(images, groups_of_duplicates(images), [(number,) for number in range(classes)])


@st.composite
def datasets(draw):
    scenes = draw(st.lists(st.integers(0, 15), min_size=5, max_size=30))
    return [
        image(number, scene(seed), draw(st.sets(st.integers(0, 3), min_size=1)))
        for number, seed in enumerate(scenes)
    ]


@settings(deadline=None)
@given(datasets())
def test_scenes_stay_on_one_side_and_every_class_is_trained(images):
    training, validation = split_of(images, 4)
    assert sorted(int(x.pair.name) for x in (*training, *validation)) == list(range(len(images)))
    scenes = [{x.thumbnail.tobytes() for x in side} for side in (training, validation)]
    assert not scenes[0] & scenes[1]
    of_training, of_all = ({v for x in side for v in x.values} for side in (training, images))
    assert of_training == of_all


def test_a_fifth_validates_with_every_class_and_the_same_each_time():
    images = [image(number, scene(number), {0, 1 + number % 2}) for number in range(40)]
    _, validation = split_of(images, 3)
    assert len(validation) == 8
    assert {value for x in validation for value in x.values} == {(0,), (1,), (2,)}
    assert [x.pair.name for x in split_of(images, 3)[1]] == [x.pair.name for x in validation]


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('noise', [0.0, 0.02, 0.03])
def test_near_duplicates_are_those_of_a_comparison_of_all_pairs(seed, noise):
    rng = np.random.default_rng(seed)
    scenes = rng.random((60, 4, 4)).repeat(4, 1).repeat(4, 2)[rng.integers(0, 60, 150)]
    scenes += rng.normal(0, noise * rng.random((150, 1, 1)), scenes.shape)
    thumbnails = scenes.astype(np.float32)
    pixels = thumbnails.reshape(150, -1)
    near = np.abs(pixels[:, None] - pixels[None]).mean(2) < SAME
    _, group = connected_components(near)
    expected = [np.flatnonzero(group == number).tolist() for number in range(group.max() + 1)]
    found = groups_of_duplicates([image(n, thumbnail) for n, thumbnail in enumerate(thumbnails)])
    assert found == sorted(expected)
    assert 50 < len(found) < 150


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_noise_makes_a_near_duplicate_and_another_scene_does_not(tmp_path, dtype):
    folders = make_folders(tmp_path, 3, dtype=dtype)
    cv2.imwrite(str(folders[0] / '1.png'), image_of(mask_of(0), 77, dtype=dtype))
    assert groups_of_duplicates(scan(pair_files(*folders))) == [[0, 1], [2]]
