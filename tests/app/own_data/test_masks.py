"""Masks as users have them: what becomes classes, what is ignored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from PIL import Image

from pspnet_plugin.app.commands import main
from tests.helpers.folders import make_folders, mask_of, write_raster

COUNT = 6
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
COLOUR_TABLE = 'sky 0 0 0\nroof 255 0 0\nwater 0 0 255\n'


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Runs ``pspnet init`` on six images and masks that ``write`` makes; code, output, labels.

    ``write(path, mask)`` gets the path of a mask without its suffix.
    """
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path, COUNT, size=(64, 80))

    def run(write=None, table=None):
        for path in sorted(Path('masks').glob('*.png')) if write else ():
            mask = np.asarray(Image.open(path))
            path.unlink()
            write(path.with_suffix(''), mask)
        options = []
        if table is not None:
            Path('classes.txt').write_bytes(table if isinstance(table, bytes) else table.encode())
            options = ['--classes', 'classes.txt']
        code = main(['init', 'images', 'masks', '--out', 'mine', *options])
        captured = capsys.readouterr()
        return code, (captured.out + captured.err).lstrip()

    return run


def labels_of(number):
    """The label map of an image that the config reads."""
    cfg = Config.fromfile('mine/mine.py')
    with Image.open(Path(cfg.masks, f'{number}{cfg.dataset.seg_map_suffix}')) as file:
        return np.asarray(file)


def binary(mask):
    """0 and 255, with borders that are none of JPEG's blocks."""
    return np.roll(mask > 1, (3, 2), (0, 1)).astype(np.uint8) * 255


def values(*numbers, kind=np.uint8):
    return lambda mask: np.array(numbers, kind)[mask]


def soft(mask):
    """A mask of two values, its edges blurred."""
    return cv2.GaussianBlur(binary(mask), (3, 3), 1)


def disc(mask):
    """Anti-aliased."""
    canvas = np.zeros(mask.shape, np.uint8)
    return cv2.circle(canvas, (40, 32), int(mask.sum() % 20) + 8, 255, -1, cv2.LINE_AA)


def objects(first):
    """Writes masks in which each block is an object of its own, counted from 1."""

    def write(path, mask):
        numbers = np.kron(np.arange(1, 81).reshape(8, 10), np.ones((8, 8), int))
        numbered = np.where(mask > 1, numbers + first * int(path.name), 0)
        Image.fromarray(numbered.astype(np.uint8)).save(path.with_suffix('.png'))

    return write


def photo(path, mask, channels=3):
    pixels = np.random.default_rng(int(path.name)).integers(0, 256, (*mask.shape, channels))
    Image.fromarray(pixels.astype(np.uint8).squeeze()).save(path.with_suffix('.png'))


def saved(change, suffix='.png', **options):
    def write(path, mask):
        Image.fromarray(change(mask)).save(path.with_suffix(suffix), **options)

    return write


def raster(change, **options):
    def write(path, mask):
        write_raster(path.with_suffix('.tif'), change(mask)[None], **options)

    return write


def one_hot(count):
    """Writes a band for each class, 8 bits."""

    def write(path, mask):
        bands = np.stack([mask == number for number in range(count)])
        write_raster(path.with_suffix('.tif'), bands.astype(np.uint8), photometric='minisblack')

    return write


def with_cv2(suffix, step):
    """Writes greys of 16 bits in three channels."""

    def write(path, mask):
        grey = mask.astype(np.uint16) * step
        cv2.imwrite(str(path.with_suffix(suffix)), np.dstack([grey, grey, grey]))

    return write


def mixed(path, mask):
    """0 and 255 in some masks, 0 and 1 in others."""
    value = 1 if int(path.name) % 2 else 255
    Image.fromarray((mask > 0).astype(np.uint8) * value).save(path.with_suffix('.png'))


def of_shape(count, side):
    """Writes rasters of that many bands and pixels, of which none is stored."""

    def write(path, _):
        shape = dict(count=count, height=side, width=side, dtype='float64', SPARSE_OK=True)
        with rasterio.open(path.with_suffix('.tif'), 'w', driver='GTiff', **shape):
            pass

    return write


@pytest.mark.parametrize(
    ('write', 'told'),
    [
        (of_shape(2, 64), 'has 2 bands; a mask has one, or colours'),
        (one_hot(2), 'has 2 bands; a mask has one, or colours'),
        (one_hot(3), 'a mask in colours, such as (0, 0, 1)'),
        (of_shape(3000, 2000), 'has 3000 bands'),
        (of_shape(1, 20000), 'has more than 178 megapixels'),
        (saved(soft), 'two, 0 and 255, with soft edges or traces of JPEG. Write 255 where a mask'),
        (saved(disc), 'two, 0 and 255, with soft edges'),
        (saved(lambda mask: disc(mask) // 2), 'two, 0 and 127, with soft edges'),
        (saved(soft, '.jpg'), 'above 127 and 0 elsewhere, as PNG'),
        (saved(binary, '.jpg', quality=95), 'two, 0 and 255'),
        (saved(binary, '.webp', quality=80), 'webp changes what was drawn'),
        (
            saved(lambda mask: binary(mask) // 3 + binary(mask.T.reshape(mask.shape)) // 3, '.jpg'),
            'hardly one',
        ),
        (saved(lambda mask: COLOURS[mask], '.jpg'), 'changes what was drawn: write'),
        (saved(lambda mask: binary(mask) // 100, '.jpg'), 'was compressed with losses and holds '),
        (saved(values(0, 1, 2), '.webp', quality=50), 'was compressed with losses and holds '),
        (photo, 'looks like a photo, or numbers objects; are the folders of images'),
        (lambda path, mask: photo(path, mask, 1), 'looks like a photo. Are the folders'),
        (objects(0), 'seem to number objects'),
        (objects(3), 'seem to number objects'),
        (raster(lambda mask: np.arange(mask.size, dtype=np.uint16).reshape(mask.shape)), 'objects'),
        (raster(lambda mask: (mask / 3).astype(np.float32)), 'which is no whole number'),
        (with_cv2('.png', 200), 'colours or alpha of 16 bits, of which Pillow and MMSegmentation'),
        (with_cv2('.tif', 200), 'colours or alpha of 16 bits'),
        (mixed, '0.png: holds 0 and 255, as 3 masks do, but masks/1.png 0, 1; if 255 is a class'),
    ],
)
def test_masks_that_hold_something_else_than_classes_are_refused_with_what_was_meant(
    init, write, told
):
    code, output = init(write)
    assert code == 1
    assert told in output
    assert 'masks/' in output
    assert not Path('mine').exists()


@pytest.mark.parametrize('folders', [('images', 'images'), ('images', 'masks/../images')])
def test_one_folder_without_masks_is_refused(init, folders, capsys):
    assert main(['init', *folders, '--out', 'mine']) == 1
    assert 'name the folder or the file of them' in capsys.readouterr().err


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_images_and_masks_that_are_swapped_are_refused(init, capsys, suffix):
    for path in Path('images').iterdir():
        with Image.open(path) as image:
            image.convert('RGB').save(path.with_suffix(suffix))
        if path.suffix != suffix:
            path.unlink()
    assert main(['init', 'masks', 'images', '--out', 'mine']) == 1
    assert 'are the folders of images and masks swapped?' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('values', 'table', 'grey'),
    [
        ((0, 255), None, [True, False]),
        ((0, 1, 2), None, [False] * 3),
        ((0, 1, 2), 'leaf 0\nBackground 1\nroot 2', [False, True, False]),
        ((0, 1, 2), 'background 1 1 1\nleaf 0 0 0\nroot 2 2 2', [False] * 3),  # has colours
    ],
)
def test_a_background_is_grey_and_the_other_classes_have_colours(init, values, table, grey):
    code, output = init(saved(lambda mask: np.array(values, np.uint8)[mask % len(values)]), table)
    assert code == 0, output
    found = [colour == [96] * 3 for colour in Config.fromfile('mine/mine.py').palette]
    assert found == grey


@pytest.mark.parametrize(
    ('write', 'table', 'labels', 'ignored'),
    [
        (saved(values(0, 127, 255)), None, (0, 1, 255), '255'),
        (saved(values(0, 127, 255)), 'a 0\nb 127\nc 255', (0, 1, 2), None),
        (saved(values(1, 2, 3)), None, (0, 1, 2), None),
        (saved(values(1, 2, 3), '.webp', lossless=True), None, (0, 1, 2), None),
        (saved(values(1, 2, 255)), None, (0, 1, 255), '255'),
        (raster(values(0, 1, 2, kind=np.float32)), None, (0, 1, 2), None),
        (raster(values(0, 1, np.nan, kind=np.float32)), None, (0, 1, 255), 'no number'),
        (raster(values(0, 1, -3.4e38, kind=np.float32)), None, (0, 1, 255), 'no number'),
        (raster(values(0, 1, 2, kind=np.float64)), None, (0, 1, 2), None),
        (raster(values(0, 1, -9999, kind=np.int16)), None, (0, 1, 255), '-9999'),
        (raster(values(0, 1, -9999, kind=np.int32)), 'a 0\nb 1\nc -9999', (0, 1, 2), None),
        (
            raster(values(0, 1, 65535, kind=np.uint16)),
            'a 0\nb 1\nignored 65535',
            (0, 1, 255),
            '65535',
        ),
        (raster(values(0, 1, 65535, kind=np.uint16), nodata=65535), None, (0, 1, 255), '65535'),
        (raster(values(0, 1, 99), nodata=99), 'a 0\nb 1', (0, 1, 255), '99'),
        (raster(values(0, 1, 99), nodata=99), 'a 0\nb 1\nc 99', (0, 1, 2), None),
        (raster(values(0, 1, 2), nodata=0), None, (0, 1, 2), None),
        (
            raster(values(0, 1, np.nan, kind=np.float32), nodata=np.nan),
            'a 0\nb 1',
            (0, 1, 255),
            'no number',
        ),
        (saved(values(0, 1, 2)), 'a 1\nb 2\nignored 0', (255, 0, 1), '0'),
        (saved(lambda mask: COLOURS[mask]), COLOUR_TABLE, (0, 1, 2), None),
        (
            saved(lambda mask: COLOURS[mask]),
            'sky 0 0 0\nroof 255 0 0\nignored 0 0 255',
            (0, 1, 255),
            '(0, 0, 255)',
        ),
    ],
)
def test_each_value_is_a_class_or_a_line_that_says_that_it_is_ignored(
    init, write, table, labels, ignored
):
    code, output = init(write, table)
    assert code == 0, output
    lines = [line for line in output.splitlines() if 'ignored' in line]
    assert len(lines) == (ignored is not None)
    masks = np.stack([mask_of(number, size=(64, 80)) for number in range(COUNT)])
    if ignored is not None:
        share = np.mean(np.array(labels)[masks] == 255)
        assert ignored in lines[0]
        assert f'{100 * share:.2f} %' in lines[0]
    for number, mask in enumerate(masks):
        np.testing.assert_array_equal(labels_of(number), np.array(labels)[mask])
    kept = [label for label in labels if label != 255]
    assert len(Config.fromfile('mine/mine.py').classes) == len(kept)


@pytest.mark.parametrize(
    'numbers',
    [
        range(19),  # Cityscapes
        range(24),
        (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100),  # ESA WorldCover
        (0, 38, 75, 113, 128),
        (0, 50, 100, 150, 200),
    ],
)
def test_values_that_are_few_and_lie_apart_are_classes(init, numbers):
    def write(path, mask):
        labels = mask_of(int(path.name), len(numbers) + 1, mask.shape)
        saved(values(*numbers, 255))(path, labels)

    code, output = init(write)
    assert code == 0, output
    assert Config.fromfile('mine/mine.py').classes == tuple(f'class_{n}' for n in numbers)


def test_masks_with_colours_and_with_shades_of_grey_alone_are_read_by_one_table(init):
    def write(path, mask):
        only_black = path.name == '3'
        Image.fromarray(COLOURS[mask * (not only_black)]).save(path.with_suffix('.png'))

    code, output = init(write, COLOUR_TABLE)
    assert code == 0, output
    assert not labels_of(3).any()
    np.testing.assert_array_equal(labels_of(2), mask_of(2, size=(64, 80)))


def with_palette(in_order):
    """Writes masks with a palette, the same for all or an own one for each."""

    def write(path, mask):
        order = np.arange(3) if in_order else np.roll(np.arange(3), int(path.name))
        indexed = Image.fromarray(np.argsort(order)[mask].astype(np.uint8))
        indexed.putpalette(COLOURS[order].ravel().tolist())
        indexed.save(path.with_suffix('.png'))

    return write


@pytest.mark.parametrize(
    ('in_order', 'table'), [(True, None), (True, COLOUR_TABLE), (False, COLOUR_TABLE)]
)
def test_palettes_of_any_order_are_read_by_a_table_of_colours(init, in_order, table):
    code, output = init(with_palette(in_order), table)
    assert code == 0, output
    for number in range(COUNT):
        np.testing.assert_array_equal(labels_of(number), mask_of(number, size=(64, 80)))


@pytest.mark.parametrize('table', [None, 'a 0\nb 1\nc 2'])
def test_palettes_that_differ_are_refused_without_a_table_of_colours(init, table):
    code, output = init(with_palette(in_order=False), table)
    assert code == 1
    assert 'masks/1.png: value 0 is (0, 0, 255) in its palette, but (0, 0, 0) in masks/0' in output
    assert 'table of the colours with --classes' in output


@pytest.mark.parametrize(
    ('table', 'names'),
    [
        (b'\xef\xbb\xbfsky 0\nroof 1\nwater 2', ('sky', 'roof', 'water')),
        ('traffic light 0\nzone 3, 1\nroad;x 2', ('traffic light', 'zone 3', 'road;x')),
        ('sky\t0\n\n# 5 6\nroof ,1 \nwater, 2', ('sky', 'roof', 'water')),
    ],
)
def test_names_of_classes_may_have_blanks_and_a_file_a_byte_order_mark(init, table, names):
    code, output = init(table=table)
    assert code == 0, output
    assert Config.fromfile('mine/mine.py').classes == names


@pytest.mark.parametrize(
    ('table', 'told'),
    [
        ('sky 0\nroof 1', 'value 2 is none of the classes'),
        ('sky 0\nroof 1\n0', 'line 3 is not NAME VALUE or NAME RED GREEN BLUE: 0'),
        ('zone 3 1\n', 'line 1 is not NAME VALUE'),
        (', 1\n', 'line 1 is not NAME VALUE'),
        ('sky 0\nroof 0.5', 'line 2 is not NAME VALUE'),
        ('sky 0\nignored 0', 'line 2 repeats a name or a value'),
        ('sky 0\nignored 0 0 0', 'either all lines have one value, or all have three'),
        ('sky 0\nroof 1\nw\xe4sser 2'.encode('latin-1'), 'is no UTF-8'),
        ('sky 0\nroof 1'.encode('utf-16'), 'is no UTF-8'),
        (''.join(f'c{n} {n}\n' for n in range(300)), 'names 300 classes; label maps hold 1 to 255'),
        ('', 'names no classes'),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(init, table, told):
    code, output = init(table=table)
    assert code == 1
    assert told in output
    assert 'Traceback' not in output


def test_unknown_values_of_a_mask_are_one_line(init):
    code, output = init(saved(soft, '.jpg'), 'no 0\nyes 255')
    assert code == 1
    assert 'masks/0.jpg: values ' in output
    assert '.jpg changes what was drawn: write masks as PNG' in output
    assert len(output.splitlines()) <= COUNT


def test_a_mask_that_mmsegmentation_cannot_open_is_refused(init, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)  # half of what is an error
    code, output = init()
    assert code == 1
    assert 'masks/0.png: has more than' in output
    assert 'cut image and mask into tiles' in output


@pytest.mark.parametrize('spoil', [lambda content: content[:-30], lambda content: content[:90]])
def test_a_cut_mask_is_named_and_not_its_image(init, spoil):
    path = Path('masks/2.png')
    path.write_bytes(spoil(path.read_bytes()))
    code, output = init()
    assert code == 1
    assert output.startswith('error: masks/2.png: is cut')
    assert 'images/' not in output


def test_many_rows_are_counted_in_strips(init, monkeypatch):
    monkeypatch.setattr('pspnet_plugin.app.own_data.masks.STRIP', 7 * 80)
    code, output = init(saved(values(5, 9, 200)))
    assert code == 0, output
    for number in range(COUNT):
        np.testing.assert_array_equal(labels_of(number), mask_of(number, size=(64, 80)))
