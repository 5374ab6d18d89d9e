"""COCO JSON becomes the label maps that pycocotools makes of the same file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.own_data.annotations.draw import draw
from pspnet_plugin.app.own_data.annotations.shapes import AnnotatedImage, Shape
from tests.helpers.annotations import (
    SIZE,
    SQUARE,
    TRIANGLE,
    border_of,
    coco_of,
    flat,
    label_map_of,
    write_images,
    write_json,
)

HOLE = [[10.0, 10.0], [20.0, 10.0], [20.0, 30.0], [10.0, 30.0]]
LEAF = [[12.0, 15.0], [17.0, 15.0], [17.0, 22.0], [12.0, 22.0]]
PARTS = [[[0.0, 0.0], [9.0, 0.0], [9.0, 48.0], [0.0, 48.0]], LEAF]
OTHER = [[33.0, 2.0], [50.0, 2.0], [50.0, 6.0], [33.0, 6.0]]


def init(*arguments):
    return main(['init', 'images', *arguments, '--out', 'mine'])


def random_mask(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random(SIZE) < rng.random()).astype(np.uint8)


@pytest.mark.parametrize(
    'segmentation',
    [
        [flat(SQUARE)],
        [flat(TRIANGLE)],
        [flat(SQUARE), flat(OTHER)],
        [flat([[-9.0, 3.0], [90.0, 20.0], [20.0, 90.0]])],
        'uncompressed',
        'compressed',
    ],
    ids=['square', 'triangle', 'two parts', 'outside', 'uncompressed', 'compressed'],
)
def test_masks_are_those_of_pycocotools_but_for_the_border_of_polygons(here, segmentation):
    coco = pytest.importorskip('pycocotools.coco')
    encoded = pytest.importorskip('pycocotools.mask')
    if isinstance(segmentation, str):
        counts = encoded.encode(np.asfortranarray(random_mask(3)))['counts'].decode()
        if segmentation == 'uncompressed':
            flips = np.flatnonzero(np.diff(random_mask(3).ravel('F'), prepend=0, append=2))
            counts = np.diff(flips, prepend=0).tolist()
        segmentation = {'counts': counts, 'size': list(SIZE)}
    names = [path.name for path in write_images(here / 'images')]
    file = write_json(here / 'made.json', coco_of(names, [('a', segmentation)]))
    assert init(str(file)) == 0
    theirs = coco.COCO(str(file))
    for number in range(len(names)):
        expected = theirs.annToMask(theirs.loadAnns(theirs.getAnnIds(number))[0])
        differs = label_map_of(here / f'mine/labels/{number}.png') != expected
        if isinstance(segmentation, list):
            differs &= ~border_of(expected)
        assert not differs.any()


def test_a_ring_inside_another_is_a_hole_and_one_inside_the_hole_is_not(here):
    names = [path.name for path in write_images(here / 'images')]
    rings = [flat(LEAF), flat(SQUARE), flat(HOLE)]
    file = write_json(here / 'made.json', coco_of(names, [('a', rings)]))
    assert init(str(file)) == 0
    expected = np.zeros(SIZE, np.uint8)
    for points, value in ((SQUARE, 1), (HOLE, 0), (LEAF, 1)):
        (left, top), (right, bottom) = points[0], points[2]
        expected[int(top) : int(bottom), int(left) : int(right)] = value
    np.testing.assert_array_equal(label_map_of(here / 'mine/labels/0.png'), expected)


def test_parts_that_come_twice_are_drawn_once_beside_a_larger_one(here):
    names = [path.name for path in write_images(here / 'images')]
    closed = [*LEAF[2:], *LEAF[:3]]
    rings = [*map(flat, PARTS), flat(closed)]
    file = write_json(here / 'made.json', coco_of(names, [('a', rings)]))
    assert init(str(file)) == 0
    expected = np.zeros(SIZE, np.uint8)
    for (left, top), _, (right, bottom), _ in PARTS:
        expected[int(top) : int(bottom), int(left) : int(right)] = 1
    np.testing.assert_array_equal(label_map_of(here / 'mine/labels/0.png'), expected)


def test_thousands_of_parts_all_over_a_large_image_are_drawn():
    """Each in its own pixels: in those of all parts this would take a minute."""
    rows, columns = np.mgrid[5:3000:60, 5:4000:60].reshape(2, -1)
    square = np.array([[0.0, 0.0], [6.0, 0.0], [6.0, 6.0], [0.0, 6.0]])
    rings = [square + corner for corner in zip(columns, rows)]
    image = AnnotatedImage(Path('x.png'), (3000, 4000), [Shape('a', rings)])
    expected = np.zeros((3000, 4000), np.uint8)
    for row, column in zip(rows, columns):
        expected[row : row + 6, column : column + 6] = 1
    np.testing.assert_array_equal(draw(image, {'a': 1})[0], expected)


def test_a_polygon_of_a_million_points_is_drawn_like_one_of_few(here):
    coco = pytest.importorskip('pycocotools.mask')
    names = [path.name for path in write_images(here / 'images')]
    angles = np.linspace(0, 2 * np.pi, 1_000_000, endpoint=False)
    ring = np.stack([30 + 20 * np.cos(angles), 25 + 15 * np.sin(angles)], axis=1)
    rings = [('a', [ring.ravel().tolist()])]
    write_json(here / 'made.json', coco_of(names[:1], rings))
    assert init('made.json', '--unannotated', 'background') == 0
    expected = coco.decode(coco.frPyObjects([ring[::1000].ravel().tolist()], *SIZE))[..., 0]
    inside = ~border_of(expected)
    found = label_map_of(here / 'mine/labels/0.png')
    np.testing.assert_array_equal(found[inside], expected[inside])


def test_labels_with_blanks_are_classes_of_the_config_in_the_order_of_their_ids(here, capsys):
    names = [path.name for path in write_images(here / 'images')]
    shapes = [('traffic light', [flat(SQUARE)]), ('cyclist, moving', [flat(TRIANGLE)])]
    content = coco_of(names, shapes)
    content['categories'].reverse()
    # As Roboflow writes it.
    content['categories'].append({'id': 0, 'name': 'things', 'supercategory': 'none'})
    content['categories'][0]['supercategory'] = 'things'
    assert init(str(write_json(here / 'made.json', content))) == 0
    told = capsys.readouterr().out
    assert 'annotations: COCO JSON' in told
    cfg = Config.fromfile(here / 'mine' / 'mine.py')
    assert cfg.classes == ('background', 'cyclist, moving', 'traffic light')
    label_map = label_map_of(here / 'mine/labels/0.png')
    assert label_map[20, 10] == 2
    assert label_map[25, 45] == 1


def test_a_class_without_shapes_that_is_its_own_supercategory_keeps_its_label(here):
    names = [path.name for path in write_images(here / 'images')]
    content = coco_of(names, [('a', [flat(SQUARE)]), ('c', [flat(TRIANGLE)])])
    categories = {'a': 1, 'b': 2, 'c': 3}
    of_numbers = {entry['id']: entry['name'] for entry in content['categories']}
    for annotation in content['annotations']:
        annotation['category_id'] = categories[of_numbers[annotation['category_id']]]
    content['categories'] = [
        {'id': number, 'name': name, 'supercategory': name} for name, number in categories.items()
    ]
    write_json(here / 'made.json', content)
    assert init('made.json') == 0
    assert Config.fromfile(here / 'mine' / 'mine.py').classes == ('background', *categories)
    assert label_map_of(here / 'mine/labels/0.png')[25, 45] == categories['c']


def test_images_of_several_suffixes_keep_theirs_in_their_names(here):
    paths = [*write_images(here / 'images', 4), *write_images(here / 'images', 4, '.jpg', 9)]
    shapes = [('a', [flat(SQUARE)])]
    write_json(here / 'made.json', coco_of([path.name for path in paths], shapes))
    assert init('made.json') == 0
    assert main(['check', 'mine/mine.py']) == 0
    written = {path.name for path in (here / 'mine' / 'labels').iterdir()}
    assert written == {f'{path.name}.png' for path in paths}


def test_a_table_says_the_order_of_the_classes_and_has_to_have_all_labels(here, capsys):
    names = [path.name for path in write_images(here / 'images')]
    shapes = [('a', [flat(SQUARE)]), ('big b', [flat(TRIANGLE)])]
    write_json(here / 'made.json', coco_of(names, shapes))
    (here / 'table.txt').write_text('big b 1\n')
    assert init('made.json', '--classes', 'table.txt') == 1
    assert 'table.txt: has no line for the label a' in capsys.readouterr().err
    (here / 'table.txt').write_text('big b 1\nc 2\na 3\n')
    assert init('made.json', '--classes', 'table.txt') == 0
    assert Config.fromfile('mine/mine.py').classes == ('background', 'big b', 'c', 'a')
    label_map = label_map_of(here / 'mine/labels/0.png')
    assert (label_map[20, 10], label_map[25, 45]) == (3, 1)


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'image_id': 77}, 'no image has the id 77'),
        ({'category_id': 77}, 'no category has the id 77'),
        ({'category_id': None}, 'no category has the id None'),
        ({'category_id': [1]}, 'no category has the id [1]'),
        ({'segmentation': [[1, 2, 3, 4]]}, 'a polygon of 2 points; it needs three or more'),
        ({'segmentation': [['1', '2', '3', '4', '5', '6']]}, 'all have to be numbers'),
        ({'segmentation': [[1, 2, 3, 4, 5, float('nan')]]}, 'a coordinate is nan'),
        ({'segmentation': [[1, 2, 3, 4, 5, 1e300]]}, 'a coordinate is 1e+300'),
        ({'segmentation': [[1, 2, 3, 4, 5, 6, 7]]}, 'no pairs of x and y'),
        ({'segmentation': []}, 'no polygon, no RLE'),
        ({'segmentation': {'counts': [1, 2], 'size': [48, 64]}}, 'does not fill 48 x 64 pixels'),
        ({'segmentation': {'counts': [3072], 'size': [64, 48]}}, 'the RLE has the size [64, 48]'),
        ({'segmentation': {'counts': 'PP', 'size': [48, 64]}}, 'the RLE is cut or none'),
        ({'segmentation': {'counts': ['3072'], 'size': [48, 64]}}, 'all have to be numbers'),
    ],
)
def test_a_broken_annotation_is_a_line_with_the_file_and_can_be_left_out(
    here, refused, capsys, change, told
):
    names = [path.name for path in write_images(here / 'images')]
    shapes = [('a', [flat(SQUARE)]), ('b', [flat(TRIANGLE)])]
    write_json(here / 'made.json', coco_of(names, shapes, **change))
    refused('images', 'made.json', where='made.json: annotation 0: ', told=told)
    assert init('made.json', '--skip-broken') == 0
    assert told in capsys.readouterr().out
    assert 1 not in label_map_of(here / 'mine/labels/0.png')
    assert 1 in label_map_of(here / 'mine/labels/1.png')


@pytest.mark.parametrize(
    ('name', 'told'),
    [
        ('../outside.png', 'the image ../outside.png is outside of images'),
        ('..\\outside.png', 'is outside of images'),
        ('/etc/passwd', 'is outside of images'),
        ('missing.png', 'there are no images missing.png below images'),
        (None, 'None is no name of an image'),
        ('1.png', '1.png is annotated twice'),
    ],
)
def test_an_image_that_is_not_in_the_folder_is_a_line_with_the_file(here, refused, name, told):
    names = [path.name for path in write_images(here / 'images')]
    write_images(here, 1)[0].rename(here / 'outside.png')
    content = coco_of(names, [('a', [flat(SQUARE)])])
    content['images'][0]['file_name'] = name
    write_json(here / 'made.json', content)
    refused('images', 'made.json', where='made.json: image ', told=told)


@pytest.mark.parametrize(('stated', 'is_told'), [('a/', 0), ('', 0), ('x/images/a/', 0), ('b/', 1)])
def test_images_that_lie_in_another_folder_than_stated_are_told(here, capsys, stated, is_told):
    names = [path.name for path in write_images(here / 'images' / 'a')]
    content = coco_of([f'{stated}{name}' for name in names], [('a', [flat(SQUARE)])])
    write_json(here / 'made.json', content)
    assert init('made.json') == 0
    told = 'in other folders than stated: b/0.png at images/a/0.png' in capsys.readouterr().out
    assert told == is_told


def test_a_cut_file_and_one_of_another_size_are_named(here, refused):
    names = [path.name for path in write_images(here / 'images')]
    content = coco_of(names, [('a', [flat(SQUARE)])])
    file = write_json(here / 'made.json', content)
    file.write_text(file.read_text()[:-9])
    refused('images', 'made.json', where='made.json: ', told='is cut or no JSON')
    content['images'][2]['width'] = 640
    write_json(file, content)
    told = '2.png has 640 x 48 pixels there, but the image 64 x 48'
    refused('images', 'made.json', where='made.json: image 2: ', told=told)
