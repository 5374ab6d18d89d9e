"""CVAT's XML for images becomes label maps."""

from __future__ import annotations

from itertools import groupby

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from pspnet_plugin.app.commands import main
from tests.helpers.annotations import SIZE, SQUARE, TRIANGLE, border_of, label_map_of, write_images

META = (
    '<version>1.1</version><meta><task><labels>'
    '<label><name>traffic light</name><color>#ff0000</color></label>'
    '<label><name>car</name><attributes></attributes></label>'
    '</labels></task></meta>'
)


def element(kind: str, **attributes: object) -> str:
    return f'<{kind} {" ".join(f"{key}={chr(34)}{v}{chr(34)}" for key, v in attributes.items())}/>'


def polygon(points, label='car', **attributes) -> str:
    text = ';'.join(f'{x:.2f},{y:.2f}' for x, y in points)
    return element('polygon', label=label, points=text, **attributes)


def write_cvat(folder, count=6, shapes='', of_first=None, meta=META, name='{}.png'):
    folder.mkdir(exist_ok=True)
    images = ''.join(
        f'<image id="{n}" name="{name.format(n)}" width="{SIZE[1]}" height="{SIZE[0]}">'
        f'{shapes if n or of_first is None else of_first}</image>'
        for n in range(count)
    )
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{meta}{images}</annotations>'
    (folder / 'annotations.xml').write_text(text)


def drawn(*rings: tuple[np.ndarray, int]) -> np.ndarray:
    canvas = np.zeros(SIZE, np.uint8)
    for points, value in rings:
        cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], value)
    return canvas


def assert_equal_but_for_borders(found, expected):
    inside = ~border_of(expected)
    np.testing.assert_array_equal(found[inside], expected[inside])


def test_polygons_boxes_and_ellipses_are_those_of_opencv_but_for_borders(here, capsys):
    write_images(here / 'images')
    box = element('box', label='car', xtl=30, ytl=10, xbr=50, ybr=20, rotation=30)
    ellipse = element('ellipse', label='traffic light', cx=50, cy=35, rx=10, ry=6, rotation='20.0')
    line = element('polyline', label='car', points='1,1;2,2')
    left = polygon(np.array(SQUARE) * [0.7, 1], 'traffic light')
    write_cvat(here / 'made', shapes=left + box + ellipse + line)
    assert main(['init', 'images', 'made', '--out', 'mine']) == 0
    told = capsys.readouterr().out
    assert 'annotations: CVAT for images (XML)' in told
    assert 'without an area: 6 shapes, left out: polyline car in images/0.png' in told
    assert Config.fromfile('mine/mine.py').classes == ('background', 'traffic light', 'car')
    expected = drawn((np.array(SQUARE) * [0.7, 1], 1), (cv2.boxPoints(((40, 15), (20, 10), 30)), 2))
    cv2.ellipse(expected, (50, 35), (10, 6), 20, 0, 360, 1, -1)
    assert_equal_but_for_borders(label_map_of(here / 'mine/labels/0.png'), expected)


def test_subsets_of_the_task_say_which_images_validate(here):
    write_images(here / 'images')
    write_cvat(here / 'made', shapes=polygon(SQUARE))
    file = here / 'made' / 'annotations.xml'
    text = file.read_text()
    for number in range(6):
        subset = 'Validation' if number > 3 else 'Train'
        text = text.replace(f'<image id="{number}"', f'<image id="{number}" subset="{subset}"')
    file.write_text(text)
    assert main(['init', 'images', 'made', '--out', 'mine']) == 0
    assert (here / 'mine' / 'val.txt').read_text() == '4\n5\n'


@pytest.mark.parametrize(('square', 'triangle', 'on_top'), [(1, 0, 'square'), (0, 1, 'triangle')])
def test_the_higher_z_order_lies_on_top(here, capsys, square, triangle, on_top):
    write_images(here / 'images')
    moved = np.array(TRIANGLE) - [20, 0]
    shapes = polygon(SQUARE, z_order=square) + polygon(moved, 'traffic light', z_order=triangle)
    write_cvat(here / 'made', shapes=shapes)
    assert main(['init', 'images', 'made', '--out', 'mine']) == 0
    above, below = ('car', 'traffic light') if on_top == 'square' else ('traffic light', 'car')
    told = capsys.readouterr().out
    assert f'{above} lies over {below} on ' in told
    assert 'its z_order is higher' in told
    rings = [(np.array(SQUARE), 2), (moved, 1)]
    expected = drawn(*(reversed(rings) if on_top == 'square' else rings))
    assert_equal_but_for_borders(label_map_of(here / 'mine/labels/0.png'), expected)


def test_masks_are_read_along_their_rows(here):
    write_images(here / 'images')
    mask = np.random.default_rng(0).random((20, 30)) < 0.5
    mask[0, 0] = True  # so that the first run, of pixels outside, is empty
    runs = [0, *(len(list(run)) for _, run in groupby(mask.ravel().tolist()))]
    text = ', '.join(map(str, runs))
    shape = element('mask', label='car', rle=text, left=7, top=11, width=30, height=20, z_order=0)
    write_cvat(here / 'made', shapes=shape)
    assert main(['init', 'images', 'made', '--out', 'mine']) == 0
    expected = np.zeros(SIZE, np.uint8)
    expected[11:31, 7:37] = mask * 2
    np.testing.assert_array_equal(label_map_of(here / 'mine/labels/0.png'), expected)


@pytest.mark.parametrize(
    ('broken', 'told'),
    [
        (polygon(SQUARE, 'bus'), "the label 'bus' is none of the task"),
        (polygon(SQUARE, ''), "the label '' is empty"),
        (polygon(SQUARE[:2]), 'a polygon of 2 points'),
        (element('polygon', label='car', points='1,2;3,x;4,5'), 'could not convert'),
        (element('polygon', label='car', points='1,2;nan,3;4,5'), 'a coordinate is nan'),
        (element('polygon', label='car'), 'the points None'),
        (element('box', label='car', xtl=1, ytl=2, xbr='inf', ybr=4), "xbr is 'inf'"),
        (element('mask', label='car', rle='1,2', left=0, top=0, width=2, height=2), 'not fill 2 x'),
        (element('mask', label='car', rle='a', left=0, top=0, width=2, height=2), 'RLE is none'),
        (element('blob', label='car'), 'shapes of this kind are not known'),
    ],
)
def test_a_broken_shape_is_a_line_with_the_file(here, refused, broken, told):
    write_images(here / 'images')
    write_cvat(here / 'made', shapes=polygon(SQUARE), of_first=broken)
    refused('images', 'made', where='made/annotations.xml: image 0.png: ', told=told)


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (lambda text: text[:-30], 'is cut or no XML'),
        (
            lambda text: '<?xml version="1.0" encoding="nope"?>' + text[text.index('<ann') :],
            'unknown encoding: nope',
        ),
        (
            lambda text: '<?xml version="1.0" encoding="gb2312"?>' + text[text.index('<ann') :],
            'multi-byte encodings are not supported',
        ),
        (lambda text: text.replace('<annotations>', '<annotations><track id="0"/>'), 'tracks'),
        (
            lambda text: text.replace(
                '<annotations>',
                '<!DOCTYPE a [<!ENTITY b "&#97;"><!ENTITY c SYSTEM "file:///etc/passwd">]>\n'
                '<annotations>&c;',
            ),
            'has a document type (<!DOCTYPE>)',
        ),
        (lambda text: text.replace('name="0.png"', 'name="../0.png"'), 'is outside of images'),
        (lambda text: text.replace('name="0.png"', 'name="9.png"'), 'there are no images 9.png'),
    ],
)
def test_a_broken_file_is_a_line_with_its_name(here, refused, change, told):
    write_images(here / 'images')
    write_cvat(here / 'made', shapes=polygon(SQUARE))
    file = here / 'made' / 'annotations.xml'
    file.write_text(change(file.read_text()))
    refused('images', 'made/annotations.xml', where='made/annotations.xml: ', told=told)
