"""The split: no near-duplicates across it, and every class where it can be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pspnet_plugin.app.own_data.pairs import Pair, find_pairs
from pspnet_plugin.app.own_data.scan import Look, scan
from pspnet_plugin.app.own_data.split import groups_of_duplicates, split
from tests.helpers.folders import image_of, make_folders, mask_of

NOTHING = np.zeros(3)


def look(number: int, scene: int, classes: set[int]) -> Look:
    """A look at one image of a scene; images of one scene are near-duplicates."""
    thumbnail = np.random.default_rng(scene).random((16, 16), np.float32)
    pair = Pair(str(number), Path(f'{number}.png'), Path(f'{number}.png'))
    values = Counter({(value,): 10 for value in classes})
    return Look(pair, (8, 8), 3, 'uint8', values, thumbnail, NOTHING, NOTHING, True)


@st.composite
def datasets(draw):
    scenes = draw(st.lists(st.integers(0, 15), min_size=5, max_size=30))
    return [
        look(number, scene, draw(st.sets(st.integers(0, 3), min_size=1)))
        for number, scene in enumerate(scenes)
    ]


@settings(deadline=None)
@given(datasets())
def test_scenes_stay_on_one_side_and_classes_are_on_both_where_they_can(looks):
    values = [(number,) for number in range(4)]
    training, validation = split(looks, values)
    assert sorted(int(x.pair.name) for x in (*training, *validation)) == list(range(len(looks)))
    scenes = [{x.thumbnail.tobytes() for x in side} for side in (training, validation)]
    assert not scenes[0] & scenes[1]
    for value in values:
        having = {x.thumbnail.tobytes() for x in looks if x.values[value]}
        if having:
            assert any(x.values[value] for x in training)


def test_a_fifth_validates_with_every_class_and_the_same_each_time():
    looks = [look(number, number, {0, 1 + number % 2}) for number in range(40)]
    _, validation = split(looks, [(0,), (1,), (2,)])
    assert len(validation) == 8
    assert {value for x in validation for value in x.values} == {(0,), (1,), (2,)}
    again = split(looks, [(0,), (1,), (2,)])
    assert [x.pair.name for x in again[1]] == [x.pair.name for x in validation]


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_noise_makes_a_near_duplicate_and_another_scene_does_not(tmp_path, dtype):
    folders = make_folders(tmp_path, 3, dtype=dtype)
    cv2.imwrite(str(folders[0] / '1.png'), image_of(mask_of(0), 77, dtype=dtype))
    assert groups_of_duplicates(scan(find_pairs(*folders))) == [[0, 1], [2]]
