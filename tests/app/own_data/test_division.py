"""Which images validate: as folders, files, lists or patterns say, or where nothing changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from pspnet_plugin.app.commands import main
from tests.helpers.annotations import SQUARE, TRIANGLE, coco_of, flat, write_images, write_json
from tests.helpers.folders import image_of, make_folders, mask_of


def init(*options):
    return main(['init', 'images', 'masks', '--out', 'mine', *options])


def listed(side):
    with open(f'mine/{side}.txt', encoding='utf-8') as file:
        return set(file.read().splitlines())


def make_sides(root, sides, count=12):
    """Pairs in folders, one after another."""
    make_folders(root, count)
    for number in range(count):
        for folder in (root / 'images', root / 'masks'):
            side = folder / sides[number % len(sides)]
            side.mkdir(parents=True, exist_ok=True)
            (folder / f'{number}.png').rename(side / f'{number}.png')


@pytest.mark.parametrize('val', ['val', 'valid', 'Validation', 'val2017', 'images_val'])
def test_images_in_folders_of_a_split_stay_on_their_side(here, capsys, val):
    make_sides(here, ['train', 'train/day', val])
    assert init() == 0
    assert listed('val') == {f'{val}/{number}' for number in range(2, 12, 3)}
    assert len(listed('train')) == 8
    assert '8 to train, 4 to validate; the stated split is kept' in capsys.readouterr().out


def test_images_for_testing_are_left_out(here, capsys):
    make_sides(here, ['train', 'val', 'test'])
    assert init() == 0
    assert listed('train') | listed('val') == {
        f'{side}/{number}'
        for number in range(12)
        for side in [('train', 'val', 'test')[number % 3]]
        if side != 'test'
    }
    assert 'kept, 4 test images left out' in capsys.readouterr().out


def test_images_for_testing_are_not_trained_where_none_validate(here, capsys):
    make_sides(here, ['train', 'test'])
    assert init() == 1
    assert 'but none to validate; name those with --val' in capsys.readouterr().err
    assert init('--val', 'test') == 0
    assert listed('val') == {f'test/{number}' for number in range(1, 12, 2)}


def test_a_stated_split_with_images_beside_it_is_refused_and_can_be_made_anew(here, capsys):
    make_sides(here, ['train', 'val', 'more'])
    assert init() == 1
    error = capsys.readouterr().err
    assert '.png: is neither in train nor in val, as others are' in error
    assert 'images/more/2.png' in error
    assert not (here / 'mine').exists()
    assert init('--split', 'similar') == 0
    assert len(listed('train') | listed('val')) == 12


@pytest.mark.parametrize('folders', [['train', 'bus'], ['training day', 'validity']])
def test_folders_that_only_sound_alike_are_no_split(here, folders):
    make_sides(here, folders)
    assert init() == 0
    assert len(listed('val')) == 2


def test_classes_that_one_side_lacks_are_told(here, capsys):
    make_sides(here, ['train', 'val'])
    for path in (here / 'masks' / 'val').iterdir():
        with Image.open(path) as mask:
            labels = np.asarray(mask).clip(0, 1)
        Image.fromarray(labels).save(path)
    assert init() == 0
    assert 'in no validation image: class_2' in capsys.readouterr().out


@pytest.mark.parametrize(
    'lines', ['3\n8\n', '\ufeff3\n8\n', '3.png\n8.png\n', 'day/3\nday/8.png\n\n', ' 3\r\n8\r\n']
)
def test_a_list_says_which_images_validate(here, lines):
    make_sides(here, ['day'])
    (here / 'list.txt').write_text(lines)
    assert init('--val', 'list.txt') == 0
    assert listed('val') == {'day/3', 'day/8'}
    assert len(listed('train')) == 10


@pytest.mark.parametrize('path', ['images/b', 'b'])
def test_a_folder_says_which_images_validate(here, path):
    make_sides(here, ['a', 'b', 'c'])
    assert init('--val', path) == 0
    assert listed('val') == {f'b/{number}' for number in range(1, 12, 3)}


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (['--val', 'list.txt'], 'list.txt: 77 is the name of no image'),
        (['--val', 'masks'], 'masks: none of the images is below this folder'),
        (['--val', 'nothing'], '--val nothing: no folder, and no list of names'),
        (['--val', 'images'], 'none is left for training'),
        (['--val', 'a', '--split', 'random'], 'leave out --split'),
        (['--group-by', '(a'], '--group-by (a: no regular expression'),
        (
            ['--group-by', r'^a/(\d)$'],
            r'a/10.png: --group-by ^a/(\d)$ does not match its name a/10',
        ),
        (['--group-by', 'a'], 'of one group; name others'),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(here, capsys, options, told):
    make_sides(here, ['a'])
    (here / 'list.txt').write_text('3\n77\n')
    assert init(*options) == 1
    assert told in capsys.readouterr().err
    assert not (here / 'mine').exists()


@pytest.mark.parametrize('pattern', [r'patient(\d+)_', r'^[a-z]+\d', r'(?:patient)(\d)'])
def test_images_of_a_group_stay_on_one_side(here, capsys, pattern):
    make_folders(here, 12)
    for number in range(12):
        for folder in ('images', 'masks'):
            name = f'patient{number % 4}_{number}.png'
            (here / folder / f'{number}.png').rename(here / folder / name)
    assert init('--group-by', pattern) == 0
    sides = [{name[:8] for name in listed(side)} for side in ('train', 'val')]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {f'patient{number}' for number in range(4)}
    assert f'4 groups by {pattern}' in capsys.readouterr().out


def belt(number: int) -> np.ndarray:
    """Labels of a belt with a part that has moved on, the same for two images after one another."""
    labels = np.zeros((64, 96), np.uint8)
    left = 8 + 6 * (number // 2)
    labels[28:36, left : left + 8] = 1
    return labels


def make_belt(root, label_map=belt, count=20):
    for folder in ('images', 'masks'):
        (root / folder).mkdir()
    scene = mask_of(7, size=(64, 96)) + 2
    for number in range(count):
        labels = label_map(number)
        image = image_of(np.where(labels > 0, labels, scene), number)
        cv2.imwrite(str(root / 'images' / f'{number}.png'), image)
        Image.fromarray(labels).save(root / 'masks' / f'{number}.png')


def test_images_of_a_fixed_camera_are_told_apart_by_what_differs(here, capsys):
    make_belt(here)
    assert init() == 0
    assert 'the scene hardly changes' in capsys.readouterr().out
    sides = [{int(name) // 2 for name in listed(side)} for side in ('train', 'val')]
    assert not sides[0] & sides[1]
    assert len(listed('val')) == 4


def test_images_that_are_all_the_same_need_a_random_split_which_says_so(here, capsys):
    make_belt(here, lambda number: belt(0))
    first = (here / 'images' / '0.png').read_bytes()
    for path in (here / 'images').iterdir():
        path.write_bytes(first)
    assert init() == 1
    assert 'all are near-duplicates or of one group; name others, or --split random' in (
        capsys.readouterr().err
    )
    assert init('--split', 'random') == 0
    assert len(listed('val')) == 4
    told = 'split at random: near-duplicates lie on both sides, and validation flatters'
    assert told in capsys.readouterr().out


def test_files_of_annotations_say_which_images_validate(here):
    names = [path.name for path in write_images(here / 'images', 8)]
    shapes = [('a', [flat(SQUARE)]), ('b', [flat(TRIANGLE)])]
    write_json(here / 'made' / 'instances_train2017.json', coco_of(names[:6], shapes))
    write_json(here / 'made' / 'instances_val2017.json', coco_of(names[6:], shapes))
    assert main(['init', 'images', 'made', '--out', 'mine']) == 0
    assert listed('val') == {'6', '7'}
