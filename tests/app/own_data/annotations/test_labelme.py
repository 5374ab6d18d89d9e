"""labelme's JSON becomes the label maps that labelme itself makes of it."""

from __future__ import annotations

import base64
import io
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image, ImageDraw

from pspnet_plugin.app.commands import main
from tests.helpers.annotations import (
    SIZE,
    SQUARE,
    TRIANGLE,
    border_of,
    label_map_of,
    write_images,
    write_json,
)


def shape(label, points, kind='polygon', **others):
    return {'label': label, 'points': points, 'shape_type': kind, **others}


def encoded(mask: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(mask).save(content, 'PNG')
    return base64.b64encode(content.getvalue()).decode()


PIXELS = (np.random.default_rng(0).random((21, 31)) < 0.6).astype(np.uint8)
SHAPES = [
    shape('roof', SQUARE, 'polygon', group_id=4),
    shape('roof', [[36.0, 2.0], [60.0, 2.0], [60.0, 20.0]], None, group_id=4),
    shape('big door', [[20.0, 44.0], [40.0, 20.0]], 'rectangle'),  # from below to above
    shape('wheel', [[50.0, 30.0], [54.0, 33.0]], 'circle', group_id=None),
    shape('leaf', [[2.0, 22.0], [32.0, 42.0]], 'mask', mask=PIXELS),
]


def write_labelme(folder, names, shapes, of_first=None, **others):
    """A file for each image, with shapes of its own for the first where they are given."""
    for name in names:
        own = of_first if of_first is not None and name == names[0] else shapes
        own = [{**s, 'mask': encoded(s['mask'])} if 'mask' in s else s for s in own]
        content = {'version': '5.4', 'flags': {}, 'shapes': own, 'imagePath': name}
        size = {'imageData': None, 'imageHeight': SIZE[0], 'imageWidth': SIZE[1]}
        write_json(folder / f'{name.partition(".")[0]}.json', {**content, **size, **others})


def labels_by_labelme(shapes: list[dict], values: dict[str, int]) -> np.ndarray:
    """What labelme's ``shapes_to_label`` makes of shapes; its module is run without its window."""
    file = metadata.distribution('labelme').locate_file('labelme/utils/shape.py')
    source = Path(file).read_text()
    module = {'__name__': 'shape'}
    exec(source.replace('from labelme._label_file import ShapeDict', 'ShapeDict = dict'), module)
    shapes = [{**s, 'mask': s['mask'] > 0} if 'mask' in s else s for s in shapes]
    return module['shapes_to_label'](SIZE, shapes, values)[0]


def labels_by_pillow(shapes: list[dict], values: dict[str, int]) -> np.ndarray:
    """What Pillow draws, which labelme does too."""
    canvas = Image.new('L', SIZE[::-1])
    draw = ImageDraw.Draw(canvas)
    for one in shapes:
        value, points = values[one['label']], np.array(one['points'])
        if one['shape_type'] in ('polygon', None):
            draw.polygon([*map(tuple, points)], fill=value)
        elif one['shape_type'] == 'mask':
            stencil = Image.fromarray(one['mask'] * 255)
            canvas.paste(value, tuple(points[0].astype(int)), stencil)
        else:
            radius = np.hypot(*(points[1] - points[0]))
            is_circle = one['shape_type'] == 'circle'
            first = points[0] - radius if is_circle else points.min(0)
            last = points[0] + radius if is_circle else points.max(0)
            (draw.ellipse if is_circle else draw.rectangle)([*first, *last], fill=value)
    return np.asarray(canvas)


@pytest.mark.parametrize('reference', [labels_by_pillow, labels_by_labelme])
def test_label_maps_are_those_of_labelme_but_for_borders(here, reference):
    if reference is labels_by_labelme and find_spec('labelme') is None:
        pytest.skip('labelme is not installed')
    names = [path.name for path in write_images(here / 'images')]
    write_labelme(here / 'images', names, SHAPES, imageData='no image at all')
    assert main(['init', 'images', '--out', 'mine']) == 0
    classes = Config.fromfile('mine/mine.py').classes
    assert classes == ('background', 'big door', 'leaf', 'roof', 'wheel')
    values = {name: number for number, name in enumerate(classes)}
    borders = [border_of(reference(SHAPES[:n], values)) for n in range(1, len(SHAPES))]
    inside = ~np.any(borders, axis=0)
    found, expected = label_map_of(here / 'mine/labels/0.png'), reference(SHAPES, values)
    np.testing.assert_array_equal(found[inside], expected[inside])
    assert inside.mean() > 0.7
    row, column = 22, 2  # the mask lies on top and has no border
    np.testing.assert_array_equal(found[row : row + 21, column : column + 31][PIXELS > 0], 2)


@pytest.mark.parametrize(
    ('broken', 'told'),
    [
        (shape('', SQUARE), "the label '' is empty"),
        (shape(None, SQUARE), 'label is None, not a text'),
        (shape('a', [[1, 2], [3, 4]]), 'a polygon of 2 points'),
        (shape('a', [[1, 2], [3, '4'], [5, 6]]), 'all have to be numbers'),
        (shape('a', [[1, 2], [3, float('inf')], [5, 6]]), 'a coordinate is inf'),
        (shape('a', [[1, 2], [3], [5, 6]]), 'are no coordinates'),
        (shape('a', [[1, 2]], 'rectangle'), 'a rectangle needs two points'),
        (shape('a', [[1, 2], [9, 9]], 'spiral'), "of the type 'spiral' are not known"),
        (shape('a', [[1, 2], [9, 9]], 'mask'), 'mask is None, not a text'),
    ],
)
def test_a_broken_shape_is_a_line_with_the_file(here, refused, broken, told):
    names = [path.name for path in write_images(here / 'images')]
    write_labelme(here / 'jsons', names, SHAPES, of_first=[broken])
    refused('images', 'jsons', where='jsons/0.json: shape 0: ', told=told)


@pytest.mark.parametrize('old', ['../images/{}', '..\\elsewhere\\{}', '{}'])
def test_an_image_is_found_where_its_file_was_moved(here, old):
    for path in write_images(here / 'images'):
        write_labelme(here / 'jsons', [path.name], SHAPES, imagePath=old.format(path.name))
    assert main(['init', 'images', 'jsons', '--out', 'mine']) == 0
    assert len(list((here / 'mine' / 'labels').iterdir())) == 6


def test_an_image_outside_of_the_folder_is_a_line_with_the_file(here, refused):
    write_images(here / 'images')
    write_labelme(here / 'jsons', ['0.png'], SHAPES, imagePath='../secret.png')
    refused('images', 'jsons', where='jsons/0.json: ', told='../secret.png is outside of')


@pytest.mark.parametrize('orientation', range(1, 9))
def test_shapes_lie_on_images_as_they_are_seen_however_these_are_stored(here, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    is_quarter = orientation >= 5
    for path in write_images(here / 'images', 6, '.jpg'):
        with Image.open(path) as image:
            stored = image.transpose(Image.Transpose.ROTATE_90) if is_quarter else image.copy()
        stored.save(path, exif=exif)
        write_labelme(here / 'images', [path.name], SHAPES)
    assert main(['init', 'images', '--out', 'mine']) == 0
    found = label_map_of(here / 'mine/labels/0.png')
    expected = labels_by_pillow(SHAPES, {'big door': 1, 'leaf': 2, 'roof': 3, 'wheel': 4})
    assert (found == expected).mean() > 0.9


@pytest.mark.parametrize('kept', [0, 9, -20])
def test_a_cut_file_among_others_is_named(here, refused, kept):
    names = [path.name for path in write_images(here / 'images')]
    write_labelme(here / 'jsons', names, SHAPES)
    file = here / 'jsons' / '2.json'
    file.write_text(file.read_text()[:kept])
    for path in ('jsons', 'jsons/2.json'):
        refused('images', path, where='jsons/2.json: ', told='is cut or no JSON')


def test_what_is_odd_is_told_before_anything_is_written(here, capsys):
    names = [path.name for path in write_images(here / 'images', 7)]
    shapes = [
        shape('small', [[6.0, 6.0], [9.0, 6.0], [9.0, 9.0]]),
        shape('roof', SQUARE),
        shape('car', [[10.0, 10.0], [20.0, 10.0], [20.0, 20.0], [10.0, 20.0]]),
        shape('crack', [[40.0, 40.0], [60.0, 40.3], [60.0, 40.5], [40.0, 40.2]]),
        shape('car', [[50.0, 5.0], [70.0, 5.0], [70.0, 9.0]]),
        shape('axis', [[1, 1], [9, 9]], 'line'),
    ]
    write_labelme(here / 'jsons', names[:5], shapes)
    write_labelme(here / 'jsons', names[5:6], [])
    assert main(['init', 'images', 'jsons', '--out', 'mine']) == 0
    told = capsys.readouterr().out
    for line in (
        'partly outside of the image, which is cut off: 5 shapes in 5 images (5 car; first',
        'thinner than a pixel, so that the outline is drawn too: 5 shapes in 5 images (5 crack;',
        'wholly below others, so that the label map lacks it: 5 shapes in 5 images (5 small;',
        'car lies over roof on 500 pixels in 5 images: it comes later in the file',
        'without an area: 5 shapes, left out: line axis in jsons/0.json',
        'without a shape: 1 image, background everywhere (--unannotated skip leaves them out)',
        'not named by any annotation: 1 image, left out (--unannotated background takes them as',
    ):
        assert line in told
    assert told.index('annotations: labelme JSON') < told.index('written:')
    crack = label_map_of(here / 'mine/labels/0.png')[40]
    assert (crack[41:59] == 2).all()
    assert not (here / 'mine/labels/6.png').exists()


@pytest.mark.parametrize(
    ('choice', 'labelled'), [('background', '0123456'), ('skip', '01234'), (None, '012345')]
)
def test_images_without_shapes_are_background_or_left_out(here, choice, labelled):
    names = [path.name for path in write_images(here / 'images', 7)]
    write_labelme(here / 'jsons', names[:5], SHAPES)
    write_labelme(here / 'jsons', names[5:6], [])
    options = ['--unannotated', choice] if choice else []
    assert main(['init', 'images', 'jsons', '--out', 'mine', *options]) == 0
    written = sorted(path.stem for path in (here / 'mine/labels').iterdir())
    assert written == list(labelled)


def test_the_smaller_of_two_shapes_lies_on_top_where_it_is_asked_for(here, capsys):
    names = [path.name for path in write_images(here / 'images')]
    small = shape('small', [[6.0, 6.0], [9.0, 6.0], [9.0, 9.0], [6.0, 9.0]])
    write_labelme(here / 'jsons', names, [small, shape('roof', SQUARE)])
    assert main(['init', 'images', 'jsons', '--out', 'mine', '--on-top', 'smaller']) == 0
    assert 'small lies over roof on 54 pixels in 6 images: it is smaller' in capsys.readouterr().out
    assert (label_map_of(here / 'mine/labels/0.png')[6:9, 6:9] == 2).all()


def test_ignored_and_background_labels_of_labelme_are_no_classes(here):
    names = [path.name for path in write_images(here / 'images')]
    hidden = [[10.0, 10.0], [20.0, 10.0], [20.0, 20.0], [10.0, 20.0]]
    shapes = [shape('roof', SQUARE), shape('_background_', hidden), shape('__ignore__', TRIANGLE)]
    shapes.append(shape('background', [[30.0, 0.0], [40.0, 0.0], [40.0, 3.0], [30.0, 3.0]]))
    write_labelme(here / 'jsons', names, shapes)
    assert main(['init', 'images', 'jsons', '--out', 'mine']) == 0
    assert Config.fromfile('mine/mine.py').classes == ('_background_', 'roof')
    found = label_map_of(here / 'mine/labels/0.png')
    assert (found[20, 7], found[15, 15], found[25, 45], found[0, 0]) == (1, 0, 255, 0)
