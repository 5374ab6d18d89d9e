"""YOLO segmentation becomes what OpenCV fills, as YOLO's own code does with these files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from pspnet_plugin.app.commands import main
from tests.helpers.annotations import (
    SIZE,
    SQUARE,
    TRIANGLE,
    border_of,
    flat,
    label_map_of,
    write_images,
)

NAMES = 'train: ../train/images\nval: valid/images\nnc: 2\nnames: [traffic light, car]\n'
SHAPES = ((1, SQUARE), (0, TRIANGLE))


def lines_of(shapes) -> str:
    scale = np.array(SIZE[::-1] * 1)
    parts = [(number, np.array(points) / scale) for number, points in shapes]
    return ''.join(
        f'{number} {" ".join(map(str, flat(points.tolist())))}\n' for number, points in parts
    )


def write_dataset(root, layout='images/train', names=NAMES, of_first=None):
    """Images and labels of one folder; the last image has no file of labels."""
    labels = root / layout.replace('images', 'labels')
    labels.mkdir(parents=True, exist_ok=True)
    for path in write_images(root / layout)[:-1]:
        (labels / f'{path.stem}.txt').write_text(lines_of(SHAPES))
    if of_first is not None:
        (labels / '0.txt').write_text(of_first)
    (root / 'data.yaml').write_text(names)


@pytest.mark.parametrize(
    ('layout', 'arguments'),
    [
        ('images/day', ['data']),
        ('day/images', ['data']),
        ('images', ['data/images', 'data/labels']),
        ('images', ['data/images', 'data']),
    ],
)
def test_label_maps_are_what_opencv_fills_but_for_borders(here, capsys, layout, arguments):
    write_dataset(here / 'data', layout)
    assert main(['init', *arguments, '--out', 'mine']) == 0
    told = capsys.readouterr().out
    assert 'annotations: YOLO segmentation' in told
    assert 'without a shape: 1 image, background everywhere' in told
    assert Config.fromfile('mine/mine.py').classes == ('background', 'traffic light', 'car')
    expected = np.zeros(SIZE, np.uint8)
    for number, points in SHAPES:
        cv2.fillPoly(expected, [np.array(points).astype(np.int32)], number + 1)
    found = label_map_of(next((here / 'mine' / 'labels').rglob('0.png')))
    inside = ~border_of(expected)
    np.testing.assert_array_equal(found[inside], expected[inside])
    assert not label_map_of(next((here / 'mine' / 'labels').rglob('5.png'))).any()


@pytest.mark.parametrize(
    ('line', 'told'),
    [
        ('2 .1 .1 .2 .2 .3 .1', 'no class has the number 2; there are 2'),
        ('car .1 .1 .2 .2 .3 .1', 'no class has the number car'),
        ('0 .5 .5 .2 .2', 'has four numbers, a box'),
        ('0 .5 .5', 'a polygon of 1 points'),
        ('0 .1 .1 .2 .2 .3', 'no pairs of x and y'),
        ('0 .1 .1 .2 .2 .3 x', 'are no coordinates'),
        ('0 .1 .1 .2 .2 .3 nan', 'a coordinate is nan'),
        ('0 4 5 30 5 30 40', 'are pixels or keypoints; coordinates are parts of width and height'),
        ('0 .5 .5 .2 .2 .4 .4 2 .6 .6 2', 'are pixels or keypoints'),
    ],
)
def test_a_broken_line_is_named_and_can_be_left_out(here, refused, line, told):
    write_dataset(here / 'data', of_first=f'{lines_of(SHAPES)}\n{line}\n')
    refused('data', where='data/labels/train/0.txt: line 4: ', told=told)
    assert main(['init', 'data', '--out', 'mine', '--skip-broken']) == 0


@pytest.mark.parametrize(
    ('names', 'told'),
    [
        (f'{NAMES}\nkpt_shape: [2, 2]\n', 'has keypoints (kpt_shape)'),
        ('names: [a, a]', 'two classes have the same name'),
        ('names: {0: a, 2: b}', 'neither a list nor numbered from 0'),
        ('names: [a, b', 'is no YAML with names'),
        ('names: ["", b]', "the label '' is empty"),
        ('names:', 'the names are None'),
    ],
)
def test_a_broken_list_of_names_is_an_error_with_the_file(here, refused, names, told):
    write_dataset(here / 'data', names=names)
    refused('data', where='data/data.yaml: ', told=told)


def test_names_may_be_numbered(here):
    write_dataset(here / 'data', names='names:\n  1: car\n  0: traffic light\n')
    assert main(['init', 'data', '--out', 'mine']) == 0
    assert Config.fromfile('mine/mine.py').classes == ('background', 'traffic light', 'car')


def test_names_that_differ_between_files_of_one_folder_are_refused(here, refused):
    write_dataset(here / 'data')
    (here / 'others.yaml').write_text('names: [cat, dog]\n')  # of another dataset, above
    (here / 'data' / 'old.yaml').write_text('names: [car, traffic light]\n')
    told = 'has other names than data/data.yaml; keep one of them there'
    refused('data', where='data/old.yaml: ', told=told)
    (here / 'data' / 'old.yaml').write_text(NAMES)
    assert main(['init', 'data', '--out', 'mine']) == 0


def test_labels_of_no_image_are_a_line_and_other_texts_are_not(here, refused):
    write_dataset(here / 'data')
    labels = here / 'data' / 'labels' / 'train'
    (labels / 'classes.txt').write_text('traffic light\ncar\n')
    (labels / '1.txt').rename(labels / 'IMG_1.txt')
    told = 'has polygons, but there is no image of this name'
    refused('data', where='data/labels/train/IMG_1.txt: ', told=told)
    (labels / 'IMG_1.txt').rename(labels / '1.txt')
    assert main(['init', 'data', '--out', 'mine']) == 0
