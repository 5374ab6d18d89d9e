"""Masks as VOC, Roboflow and CamVid lay them out, with the class tables that lie beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from pspnet_plugin.app.commands import main
from tests.helpers.annotations import label_map_of, write_images
from tests.helpers.folders import mask_of

COLOURS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
LABELMAP = (
    '# label:color_rgb:parts:actions\nbackground:0,0,0::\ntraffic light:128,0,0::\ncat:0,128,0::\n'
)
NAMES = ('background', 'traffic light', 'cat')
SIZE = (48, 64)


def save_mask(path, labels, palette=False):
    """Labels as colours, or as indices with a palette whose order is another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not palette:
        Image.fromarray(COLOURS[labels]).save(path)
        return
    order = np.array([7, 3, 200])
    image = Image.fromarray(order[labels].astype(np.uint8), 'P')
    of_indices = np.full((256, 3), 99, np.uint8)
    of_indices[order] = COLOURS
    image.putpalette(of_indices.tobytes())
    image.save(path)


def expected(number):
    return mask_of(number, size=SIZE)


def labels_written(out, name):
    return label_map_of(out / 'labels' / f'{name}.png')


@pytest.mark.parametrize('palette', [False, True])
@pytest.mark.parametrize('arguments', [['voc'], ['voc/JPEGImages', 'voc'], ['photos', 'voc']])
def test_masks_of_voc_get_the_names_of_the_label_map(here, capsys, palette, arguments):
    write_images(here / 'photos', 7)
    if arguments[0] != 'photos':
        (here / 'voc').mkdir()
        (here / 'photos').rename(here / 'voc' / 'JPEGImages')
    for number in range(6):  # the last image has no mask
        mask = expected(number)
        save_mask(here / f'voc/SegmentationClass/{number}.png', mask, palette)
        save_mask(here / f'voc/SegmentationObject/{number}.png', mask)
    (here / 'voc' / 'labelmap.txt').write_text(LABELMAP)
    assert main(['init', *arguments, '--out', 'mine']) == 0
    assert 'voc/labelmap.txt (VOC)' in capsys.readouterr().out
    cfg = Config.fromfile('mine/mine.py')
    assert cfg.classes == NAMES
    assert cfg.palette == COLOURS.tolist()
    for number in range(6):
        with Image.open(here / f'voc/SegmentationClass/{number}.png') as mask:
            in_colours = np.asarray(mask.convert('RGB'))
        found = labels_written(here / 'mine', number)
        np.testing.assert_array_equal(COLOURS[found], in_colours)


@pytest.mark.parametrize(
    'line', ['{}\n', '{}.png\n', '{}  1\r\n', '/JPEGImages/{}.png /m/{}.png\n']
)
def test_the_lists_of_voc_say_which_images_validate(here, line, capsys):
    write_images(here / 'voc' / 'JPEGImages')
    for number in range(6):
        save_mask(here / f'voc/SegmentationClass/{number}.png', expected(number))
    (here / 'voc' / 'labelmap.txt').write_text(LABELMAP)
    lists = here / 'voc' / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    for side, names in (('train', '0135'), ('val', '24'), ('trainval', '012345')):
        text = ''.join(line.replace('{}', name) for name in names)
        (lists / f'{side}.txt').write_text(text, encoding='utf-8-sig')
    assert main(['init', 'voc', '--out', 'mine']) == 0
    assert (here / 'mine' / 'val.txt').read_text() == '2\n4\n'
    (lists / 'val.txt').write_text('img_2\nimg_4\n')
    assert main(['init', 'voc', '--out', 'other']) == 1
    assert 'val.txt: img_2 is the name of no image' in capsys.readouterr().err


def test_the_border_of_voc_is_ignored(here):
    write_images(here / 'photos')
    for number in range(6):
        colours = COLOURS[expected(number)]
        colours[:3] = (224, 224, 192)
        (here / 'masks').mkdir(exist_ok=True)
        Image.fromarray(colours).save(here / f'masks/{number}.png')
    (here / 'masks' / 'labelmap.txt').write_text(LABELMAP)
    assert main(['init', 'photos', 'masks', '--out', 'mine']) == 0
    found = labels_written(here / 'mine', 0)
    assert (found[:3] == 255).all()
    np.testing.assert_array_equal(found[3:], expected(0)[3:])


def test_roboflows_masks_lie_beside_their_images(here):
    for folder, first in (('train', 0), ('valid', 10)):
        for path in write_images(here / 'data' / folder, 5, '.jpg', first):
            mask = expected(first + int(path.stem))
            Image.fromarray(mask).save(path.with_name(f'{path.stem}_mask.png'))
        table = 'Pixel Value, Class\n0, background\n1, traffic light\n2, cat\n'
        (here / 'data' / folder / '_classes.csv').write_text(table)
    assert main(['init', 'data', '--out', 'mine']) == 0
    cfg = Config.fromfile('mine/mine.py')
    assert cfg.classes == NAMES
    assert cfg.images == cfg.masks == str(here / 'data')
    assert main(['check', 'mine/mine.py']) == 0


def test_tables_that_differ_are_named(here, capsys):
    for folder in ('train', 'valid'):
        for path in write_images(here / 'data' / folder, 2):
            Image.fromarray(expected(0)).save(path.with_name(f'{path.stem}_mask.png'))
        table = f'Pixel Value, Class\n0, {folder}\n1, a\n2, b\n'
        (here / 'data' / folder / '_classes.csv').write_text(table)
    assert main(['init', 'data', '--out', 'mine']) == 1
    told = 'data/valid/_classes.csv: differs from data/train/_classes.csv'
    assert told in capsys.readouterr().err


@pytest.mark.parametrize('masks', ['masks', 'labels', 'annotations'])
def test_each_side_has_folders_of_images_and_masks_of_its_own(here, masks):
    for side, first in (('train', 0), ('val', 10)):
        for path in write_images(here / 'data' / side / 'images' / 'a', 5, '.png', first):
            mask = here / 'data' / side / masks / 'a' / path.name
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(expected(first + int(path.stem))).save(mask)
    assert main(['init', 'data', '--out', 'mine']) == 0
    assert Path('mine/val.txt').read_text().split() == [f'val/images/a/{n}' for n in range(5)]
    np.testing.assert_array_equal(labels_written(here / 'mine', 'val/images/a/3'), expected(13))
    assert main(['check', 'mine/mine.py']) == 0


@pytest.mark.parametrize('arguments', [['camvid'], ['camvid/train', 'camvid/train_labels']])
def test_masks_of_camvid_get_the_names_of_its_class_table(here, arguments):
    for path in write_images(here / 'camvid' / 'train'):
        mask = expected(int(path.stem))
        save_mask(here / f'camvid/train_labels/{path.stem}_L.png', mask)
    table = 'name,r,g,b\nbackground,0,0,0\ntraffic light,128, 0, 0\ncat,0,128,0\n'
    (here / 'camvid' / 'class_dict.csv').write_text(table)
    assert main(['init', *arguments, '--out', 'mine']) == 0
    assert Config.fromfile('mine/mine.py').classes == NAMES
    written = labels_written(here / 'mine', 'train/3' if len(arguments) == 1 else '3')
    np.testing.assert_array_equal(written, expected(3))


@pytest.mark.parametrize(
    'table',
    [
        LABELMAP,
        '\ufeffName, R, G, B\r\nbackground, 0, 0, 0\r\ntraffic light, 128, 0, 0\r\ncat,0,128,0\r\n',
        'class,red,green,blue\nbackground,0,0,0\ntraffic light,128,0,0\ncat,0,128,0\n',
        'background 0 0 0\ntraffic light 128 0 0\ncat 0 128 0\n',
    ],
)
def test_a_table_of_a_tool_can_be_named(here, table):
    write_images(here / 'photos')
    for number in range(6):
        save_mask(here / f'masks/{number}.png', expected(number))
    (here / 'table').write_text(table, encoding='utf-8')
    assert main(['init', 'photos', 'masks', '--classes', 'table', '--out', 'mine']) == 0
    assert Config.fromfile('mine/mine.py').classes == NAMES


def test_where_masks_and_annotations_would_do_one_is_to_be_chosen(here, capsys):
    write_images(here / 'photos')
    for number in range(6):
        save_mask(here / f'made/{number}.png', expected(number))
    (here / 'made' / 'labelmap.txt').write_text(LABELMAP)
    (here / 'made' / 'a.json').write_text('{"images": [], "annotations": [], "categories": []}')
    assert main(['init', 'photos', 'made', '--out', 'mine']) == 1
    assert 'made: could be coco or masks: choose with --annotations' in capsys.readouterr().err
    assert main(['init', 'photos', 'made', '--out', 'mine', '--annotations', 'masks']) == 0
    assert main(['init', 'photos', 'made', '--out', 'other', '--annotations', 'labelme']) == 1
    assert 'made: no labelme JSON there' in capsys.readouterr().err
