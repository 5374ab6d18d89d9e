"""Which mask belongs to which image."""

from __future__ import annotations

import pytest

from pspnet_plugin.app.errors import DataError
from pspnet_plugin.app.own_data.scan import pair_files


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
        (['1.png', '2.png', '3.jpg'], ['1.png'], r'3\.jpg: all images need one suffix, here are 2'),
        (['1.png'], ['1.txt'], 'm: no images'),
    ],
)
def test_images_of_two_suffixes_and_none_at_all_are_an_error(tmp_path, names, mask_names, told):
    with pytest.raises(DataError, match=told):
        pair_files(touch(tmp_path / 'i', names), touch(tmp_path / 'm', mask_names))
