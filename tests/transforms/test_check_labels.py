"""CheckLabels stops at label values that are no class, and names them."""

import numpy as np
import pytest
from mmseg.registry import TRANSFORMS
from PIL import Image

from pspnet_plugin.transforms.check_labels import LabelError, values_outside

TRANSFORM = dict(type='CheckLabels', num_classes=19)


def check(label_map=None, **results):
    if label_map is not None:
        results = dict(gt_seg_map=label_map, seg_map_path='aachen_0.png', **results)
    return TRANSFORMS.build(TRANSFORM)(results)


@pytest.mark.parametrize('dtype', [np.uint8, np.int64])
def test_classes_and_the_ignored_value_pass_unchanged(dtype):
    label_map = np.array([[0, 18], [255, 7]], dtype=dtype)
    assert check(label_map)['gt_seg_map'] is label_map


@pytest.mark.parametrize('dtype', [np.uint8, np.int64])
def test_error_names_file_values_and_class_count(dtype):
    with pytest.raises(LabelError) as raised:
        check(np.array([[0, 33], [19, 255]], dtype=dtype))
    assert 'aachen_0.png holds the label values 19, 33' in str(raised.value)
    assert '19 classes: 0 to 18' in str(raised.value)


def test_error_names_the_value_that_stands_in_the_file_when_zero_is_no_class():
    with pytest.raises(LabelError, match=r'label values 42,.*: 1 to 19, and 0'):
        check(np.array([[41]]), reduce_zero_label=True)


def test_many_wrong_values_are_shown_shortened():
    with pytest.raises(LabelError, match=r'19, 20, 21, 22, 23, 24, 25, 26, …'):
        check(np.arange(60)[None])


def test_label_map_of_another_size_than_its_image_is_named():
    told = r'aachen_0\.png: 4 x 2 pixels, but its image a\.png has 4 x 3'
    image = np.zeros((3, 4, 3), np.uint8)
    with pytest.raises(LabelError, match=told):
        check(np.zeros((2, 4), np.uint8), img=image, img_path='a.png', ori_shape=(3, 4))


def test_a_label_map_in_colours_is_named_although_its_numbers_are_classes():
    with pytest.raises(LabelError, match=r'aachen_0\.png is in colours, 3 numbers'):
        check(np.ones((3, 4, 3), np.uint8), img=np.zeros((3, 4, 3), np.uint8))


@pytest.mark.parametrize('size', [(6, 8), (3, 4)], ids=['of the file', 'of the image now'])
def test_label_map_is_loaded_before_or_after_its_image_is_scaled(size):
    label_map = np.zeros(size, np.uint8)
    results = check(label_map, img=np.zeros((3, 4, 3), np.uint8), ori_shape=(6, 8))
    assert results['gt_seg_map'] is label_map


def test_image_without_labels_passes():
    assert check(img_path='a.png') == dict(img_path='a.png')


def test_label_map_that_nothing_has_loaded_is_an_error():
    with pytest.raises(LabelError, match='aachen_0.png .* Put LoadAnnotations before it'):
        check(img_path='a.png', seg_map_path='aachen_0.png')


def test_negative_values_are_outside():
    assert values_outside(np.array([-1, 3]), 19, 255).tolist() == [-1]


@pytest.mark.parametrize(
    ('values', 'told'),
    [
        (np.array([[0, 1], [256, 258]], np.uint16), 'makes others of 256, 258: write 0 to 255'),
        (np.array([[0, 1], [0.5, 2]], np.float32), 'makes others of 0.5: write 0 to 255'),
        (np.array([[0, 1], [-1, 2]], np.int32), 'makes others of -1: write 0 to 255'),
    ],
    ids=['16 bits', 'fractions', 'negative'],
)
@pytest.mark.parametrize('reduce_zero_label', [False, True])
def test_values_of_which_loading_keeps_8_bits_are_named(tmp_path, values, told, reduce_zero_label):
    path = tmp_path / 'labels.tif'
    Image.fromarray(values).save(path)
    results = dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=reduce_zero_label)
    loaded = TRANSFORMS.build(dict(type='LoadAnnotations'))(results)
    with pytest.raises(LabelError, match=f'labels.tif: LoadAnnotations keeps 8 bits and {told}'):
        TRANSFORMS.build(TRANSFORM)(loaded)


def test_another_loader_may_make_classes_of_16_bits(tmp_path):
    Image.fromarray(np.array([[26001, 7000]], np.uint16)).save(tmp_path / 'a.png')
    results = dict(gt_seg_map=np.array([[13, 0]], np.uint8), seg_map_path=str(tmp_path / 'a.png'))
    assert TRANSFORMS.build(TRANSFORM)(results) is results
