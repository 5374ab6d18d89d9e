"""Which mask belongs to which image, what both hold, and what is refused with the file's name."""

from __future__ import annotations

import builtins
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.errors import DataError
from pspnet_plugin.app.own_data.annotations.class_tables import read_table
from pspnet_plugin.app.own_data.classes import find_classes
from pspnet_plugin.app.own_data.pairs import best_keys, pair_files
from pspnet_plugin.app.own_data.scan import scan
from tests.helpers.folders import SIZE, make_folders, mask_of

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)


@pytest.fixture
def folders(tmp_path):
    return make_folders(tmp_path, 4)


def statistics_of(folders):
    return scan(pair_files(*folders))


def change_masks(folders, change):
    for path in sorted(folders[1].iterdir()):
        with Image.open(path) as mask:
            values = np.asarray(mask)
        Image.fromarray(change(values)).save(path)


@pytest.mark.parametrize(('channels', 'dtype'), [(1, 'uint8'), (3, 'uint8'), (1, 'uint16')])
def test_size_channels_depth_statistics_and_values_are_those_of_numpy(tmp_path, channels, dtype):
    folders = make_folders(tmp_path, 2, channels=channels, dtype=dtype)
    for image in statistics_of(folders):
        with Image.open(image.pair.image) as file:
            pixels = np.asarray(file).reshape(*SIZE, -1)[:, :, ::-1].astype(float)
        assert (image.size, image.channels, image.depth) == (SIZE, channels, dtype)
        np.testing.assert_allclose(image.total, pixels.sum((0, 1)))
        np.testing.assert_allclose(image.squares, (pixels**2).sum((0, 1)))
        with Image.open(image.pair.mask) as mask:
            values, counts = np.unique(np.asarray(mask), return_counts=True)
        assert image.values == {(int(v),): int(n) for v, n in zip(values, counts)}


@pytest.mark.parametrize(
    ('break_file', 'told'),
    [
        (lambda path: path.write_bytes(b''), 'the file is empty'),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), 'cut'),
        (lambda path: path.write_text('no image'), 'no image'),
        (
            lambda path: Image.new('RGB', (8, 8)).save(path),
            '56 x 40 pixels, but its image has 8 x 8',
        ),
    ],
)
def test_a_broken_image_is_named_and_the_others_are_not(folders, break_file, told):
    broken = folders[0] / '2.png'
    break_file(broken)
    with pytest.raises(DataError) as raised:
        statistics_of(folders)
    assert '2.png' in str(raised.value)
    assert told in str(raised.value)
    assert '1.png' not in str(raised.value)


def test_one_image_of_another_kind_is_named(folders):
    Image.new('I;16', SIZE[::-1]).save(folders[0] / '3.png')
    told = r'3\.png: 1 channels of uint16, the others have 3 of uint8'
    with pytest.raises(DataError, match=told):
        statistics_of(folders)


def test_masks_of_one_class_are_an_error(folders):
    change_masks(folders, np.zeros_like)
    with pytest.raises(DataError, match='masks: the masks hold one class only, 0'):
        find_classes(statistics_of(folders))


def test_labels_from_0_are_used_as_they_are(folders):
    classes = find_classes(statistics_of(folders))
    assert classes.are_labels
    counts = np.bincount(np.stack([mask_of(number) for number in range(4)]).ravel())
    assert classes.frequencies == pytest.approx(list(counts / counts.sum()))


@pytest.mark.parametrize(
    ('values', 'kept', 'names'),
    [
        ([0, 255, 255], [0, 255], 'background foreground'),  # a binary mask
        ([0, 1, 1], [0, 1], 'background foreground'),
        ([0, 1, 255], [0, 1], 'background foreground'),  # 255 is ignored
        ([1, 2, 2], [1, 2], 'class_1 class_2'),
        ([0, 2, 2], [0, 1, 2], 'class_0 class_1 class_2'),  # 1 is in no mask yet
        ([0, 128, 200], [0, 128, 200], 'class_0 class_128 class_200'),
        ([0, 1, 3], [0, 1, 2, 3], 'class_0 class_1 class_2 class_3'),
    ],
)
def test_values_become_classes(folders, values, kept, names):
    change_masks(folders, lambda mask: np.array(values, np.uint8)[mask])
    classes = find_classes(statistics_of(folders))
    assert [value for (value,) in classes.values] == kept
    assert classes.names == names.split()


def test_masks_in_colours_need_a_table(folders):
    change_masks(folders, lambda mask: COLOURS[mask])
    with pytest.raises(DataError, match=r'0\.png: a mask in colours.*\(0, 0, 0\).*--classes'):
        find_classes(statistics_of(folders))


@pytest.mark.parametrize(
    ('table', 'told'),
    [
        ('road 0 0 0\nroof 255 0 0\n', r'masks.0\.png: value \(0, 0, 255\) is none of the classes'),
        ('road 0 0\n', 'line 1 is not NAME VALUE or NAME RED GREEN BLUE: road 0 0'),
    ],
)
def test_a_table_that_does_not_fit_is_an_error(folders, tmp_path, table, told):
    change_masks(folders, lambda mask: COLOURS[mask])
    path = tmp_path / 'classes.txt'
    path.write_text(table)
    with pytest.raises(DataError, match=told):
        find_classes(scan(pair_files(*folders), True), read_table(path))


@pytest.fixture
def opened(monkeypatch):
    """How often each file below the folders of images and masks is opened."""
    counts = Counter()
    real = builtins.open

    def counting(file, *rest, **options):
        path = os.path.relpath(file) if isinstance(file, (str, Path)) else ''
        counts.update([path] if path.startswith(('images', 'masks')) else [])
        return real(file, *rest, **options)

    monkeypatch.setattr(builtins, 'open', counting)
    return counts


@pytest.mark.parametrize('name', ['{}.png', '{}.jpg'])
@pytest.mark.parametrize('has_palette', [True, False])
def test_a_file_is_opened_once_by_init_and_once_beside_its_loader_by_check(
    here, opened, name, has_palette
):
    folders = make_folders(here, 6, image_name=name)
    for path in folders[1].iterdir() if has_palette else ():
        with Image.open(path) as mask:
            indexed = mask.copy()
        indexed.putpalette(COLOURS.ravel().tolist())
        indexed.save(path)
    for times, command in enumerate(
        (['init', 'images', 'masks', '--out', 'mine'], ['check', 'mine/mine.py']), 1
    ):
        opened.clear()
        assert main(command) == 0
        assert len(opened) == 12
        assert set(opened.values()) == {times}


def touch(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    ('image', 'mask'),
    [
        ('{}.jpg', '{}.png'),
        ('{}_leftImg8bit.png', '{}_gtFine_labelTrainIds.png'),
        ('image_{}.jpg', 'mask_{}.png'),
        ('a b/{}.jpg', 'a b/{}.png'),
        ('{}.jpg', 'label of {}.png'),
        ('街道_{}.jpg', '街道_{}_标注.png'),
    ],
)
@pytest.mark.parametrize('numbers', [(0, 1, 2), (10, 20, 30), (1, 11, 111)])
def test_names_are_paired_by_what_they_have_in_common(tmp_path, image, mask, numbers):
    images = touch(tmp_path / 'i', [image.format(n) for n in numbers])
    masks = touch(tmp_path / 'm', [mask.format(n) for n in numbers])
    pairs = pair_files(images, masks)
    found = {(str(p.image.relative_to(images)), str(p.mask.relative_to(masks))) for p in pairs}
    assert found == {(image.format(n), mask.format(n)) for n in numbers}


@pytest.mark.parametrize('missing', [0, 2])
def test_thousands_of_long_names_are_paired(missing):
    cities = [f'ulm/ulm_{n:06}_{7 * n % 1000:06}' for n in range(4000)]
    images = [f'{city}_leftImg8bit' for city in cities[missing:]]
    masks = [f'{city}_gtFine_labelTrainIds' for city in cities]
    found, labels = best_keys(images, masks)
    assert [found[key] for key in labels if key in found] == images


def test_files_without_a_partner_are_named(tmp_path):
    images = touch(tmp_path / 'i', ['1_rgb.png', '2_rgb.png', '3_rgb.png', '.hidden.png'])
    masks = touch(tmp_path / 'm', ['1_seg.png', '2_seg.png', '4_seg.png', 'notes.txt'])
    with pytest.raises(DataError) as raised:
        pair_files(images, masks)
    assert f'{images / "3_rgb.png"}: no mask' in str(raised.value)
    assert f'{masks / "4_seg.png"}: no image' in str(raised.value)
    assert '1_rgb' not in str(raised.value)


@pytest.mark.parametrize(
    ('names', 'mask_names', 'told'),
    [
        (['1.png', '2.png', '2.jpg'], ['1.png'], r'2\.png: 2\.jpg has the same name'),
        (['1.png'], ['1.txt'], 'm: no images'),
    ],
)
def test_images_of_one_name_and_none_at_all_are_an_error(tmp_path, names, mask_names, told):
    with pytest.raises(DataError, match=told):
        pair_files(touch(tmp_path / 'i', names), touch(tmp_path / 'm', mask_names))
