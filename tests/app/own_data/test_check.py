"""What ``pspnet check`` finds in the data of a config."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.own_data.check import check_config
from tests.helpers.folders import make_folders, mask_of


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    """Ten images and the config that ``pspnet init`` wrote for them; the first is in training."""
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path)
    assert main(['init', 'images', 'masks', '--out', 'mine']) == 0
    capsys.readouterr()
    return tmp_path


def rewrite(old, new):
    path = Path('mine/mine.py')
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


HEAD = 'num_classes={},\n    norm_cfg'


@pytest.mark.parametrize(
    ('spoil', 'told'),
    [
        (
            lambda name: cv2.imwrite(f'masks/{name}.png', mask_of(0, size=(40, 60))),
            'masks/{}.png: 60 x 40 pixels, but its image has 56 x 40',
        ),
        (
            lambda name: cv2.imwrite(f'masks/{name}.png', np.full((40, 56), 9, np.uint8)),
            'masks/{}.png: holds the label values 9, but there are 3 classes',
        ),
        (lambda name: Path(f'images/{name}.png').write_bytes(b'\x89PNG'), 'images/{}.png: '),
        (
            lambda name: cv2.imwrite(f'images/{name}.png', np.full((40, 56, 3), 40000, np.uint16)),
            'images/{}.png: has 16 bits and is read with 8',
        ),
        *[
            (
                lambda _, number=number: rewrite(HEAD.format('num_classes'), HEAD.format(number)),
                f'model.decode_head.num_classes is {number}, but the dataset of train_dataloader',
            )
            for number in (2, 7)
        ],
        (
            lambda _: rewrite('crop = (32, 32)', 'crop = (64, 32)'),
            'the crop of 32 x 64 is larger than the image, which is 56 x 40 there',
        ),
    ],
    ids=['size', 'value', 'cut', '16 bits', 'few classes', 'many classes', 'crop'],
)
def test_what_is_wrong_is_a_line_with_the_name(project, capsys, spoil, told):
    name = (project / 'mine' / 'train.txt').read_text().split()[0]
    spoil(name)
    assert main(['check', 'mine/mine.py']) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(told.format(name) in line for line in lines), lines
    assert 'Traceback' not in '\n'.join(lines)


def test_good_data_is_counted_and_drawn(project, capsys):
    assert main(['check', 'mine/mine.py', '--out', 'grid.png']) == 0
    assert 'train_dataloader: 8 images, val_dataloader: 2 images' in capsys.readouterr().out
    with Image.open('grid.png') as grid:
        assert grid.size == (6 * 256, 2 * 256)
    found = check_config(Config.fromfile('mine/mine.py'))
    names = (project / 'mine' / 'train.txt').read_text().split()
    masks = np.stack([mask_of(int(name)) for name in names])
    np.testing.assert_array_equal(found.counts, np.bincount(masks.ravel(), minlength=3))
