"""What ``pspnet check`` finds in the data of a config."""

from __future__ import annotations

import shutil
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


def cut(path):
    Path(path).write_bytes(Path(path).read_bytes()[:-20])


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
        (
            lambda name: cv2.imwrite(f'masks/{name}.png', np.full((40, 56, 3), (1, 2, 0))),
            'masks/{}.png: is in colours; label maps have one number for each pixel',
        ),
        (
            lambda name: (
                rewrite('reduce_zero_label=False', 'reduce_zero_label=True'),
                cv2.imwrite(f'masks/{name}.png', np.full((40, 56), 4, np.uint8)),
            ),
            'masks/{}.png: holds the label values 4, but there are 3 classes',
        ),
        (lambda name: Path(f'images/{name}.png').write_bytes(b'\x89PNG'), 'images/{}.png: '),
        (lambda name: cut(f'masks/{name}.png'), 'masks/{}.png: is cut'),
        (
            lambda name: Path(f'masks/{name}.png').write_bytes(b'no image at all'),
            'masks/{}.png: cannot be loaded',
        ),
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
    ids=[
        'size',
        'value',
        'colours',
        'value with a shift',
        'cut',
        'cut mask',
        'broken mask',
        '16 bits',
        'few classes',
        'many classes',
        'crop',
    ],
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
        height = round(256 * 40 / 56)  # of images of 56 x 40
        assert grid.size == (6 * 256, 2 * height + 26)  # and a line with the classes
    found = check_config(Config.fromfile('mine/mine.py'))
    names = (project / 'mine' / 'train.txt').read_text().split()
    masks = np.stack([mask_of(int(name)) for name in names])
    np.testing.assert_array_equal(found.counts, np.bincount(masks.ravel(), minlength=3))


def loader_of(images, masks, names=None, **more):
    listed = {} if names is None else {'ann_file': names}
    return dict(
        dataset=dict(
            type='BaseSegDataset',
            metainfo=dict(classes=list('abc')),
            data_prefix=dict(img_path=str(images), seg_map_path=str(masks)),
            img_suffix='.png',
            seg_map_suffix='.png',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
            **listed,
            **more,
        )
    )


def check(capsys, train, val=None, classes=3, **head):
    """``pspnet check`` of a config with these data loaders; code, and what it prints."""
    head = dict(type='FCNHead', in_channels=8, channels=8, num_classes=classes, **head)
    model = dict(type='EncoderDecoder', backbone=None, decode_head=head)
    loaders = dict(train_dataloader=train, **({} if val is None else dict(val_dataloader=val)))
    Path('made.py').write_text(
        f'model = {model}\n' + ''.join(f'{k} = {v}\n' for k, v in loaders.items())
    )
    code = main(['check', 'made.py', '--out', 'grid.png'])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def half(source, target, first):
    """A folder with every second file of another."""
    Path(target).mkdir()
    for path in sorted(Path(source).iterdir())[first::2]:
        Path(target, path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture
def halves(tmp_path, monkeypatch):
    """Folders ``train``, ``train_masks``, ``val``, ``val_masks`` with five files each."""
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path)
    for first, name in enumerate(('train', 'val')):
        half('images', name, first)
        half('masks', f'{name}_masks', first)
    return loader_of('train', 'train_masks'), loader_of('val', 'val_masks')


def fill(folder, value, kind=np.uint8):
    for path in Path(folder).iterdir():
        Image.fromarray(np.full((40, 56), value, kind)).save(path)


def test_images_that_train_and_validate_are_told_also_as_copies(halves, capsys):
    train, val = halves
    assert check(capsys, train, val)[0] == 0
    code, output = check(capsys, train, train)
    assert code == 1
    assert 'val_dataloader: 5 of 5 images train, too, such as train/0.png; what' in output
    Path('val/copy.png').write_bytes(Path('train/0.png').read_bytes())
    Path('val_masks/copy.png').write_bytes(Path('train_masks/0.png').read_bytes())
    code, output = check(capsys, train, val)
    assert code == 1
    assert '1 of 6 images train, too, such as val/copy.png, as train/0.png' in output


@pytest.mark.parametrize('name', ['train', 'val'])
@pytest.mark.parametrize('value', [255, 200])
def test_labels_that_are_all_ignored_are_told(halves, capsys, name, value):
    fill(f'{name}_masks', value)
    code, output = check(capsys, *halves, ignore_index=value)
    assert code == 1
    assert f'{name}_dataloader: no pixel has a class, all are ignored' in output


def test_the_ignored_value_is_that_of_the_head(halves, capsys):
    Image.fromarray(np.full((40, 56), 200, np.uint8)).save('train_masks/0.png')
    assert 'train_masks/0.png: holds the label values 200' in check(capsys, *halves)[1]
    code, output = check(capsys, *halves, ignore_index=200)
    assert code == 0, output
    assert 'ignored' in output
    assert '20.00 % of all' in output


def test_other_masks_of_the_same_images_are_looked_at(halves, capsys):
    shutil.copytree('train_masks', 'other')
    fill('other', 7)
    datasets = [loader_of('train', masks)['dataset'] for masks in ('train_masks', 'other')]
    code, output = check(capsys, dict(dataset=dict(type='ConcatDataset', datasets=datasets)))
    assert code == 1
    assert 'other/0.png: holds the label values 7' in output
    assert 'train_dataloader: 10 images' in output


@pytest.mark.parametrize(
    ('content', 'told'),
    [
        ('caf\xe9\n'.encode('latin-1'), 'names.txt: is no UTF-8'),
        ('0\n2\n'.encode('utf-16'), 'names.txt: is no UTF-8'),
        (b'\xef\xbb\xbf0\n2\n', 'names.txt: begins with a byte-order mark'),
    ],
)
def test_a_list_of_images_in_another_encoding_is_one_line(halves, capsys, content, told):
    Path('names.txt').write_bytes(content)
    code, output = check(capsys, loader_of('train', 'train_masks', 'names.txt'))
    assert code == 1
    assert f'error: {told}' in output.replace(f'{Path.cwd()}/', '')
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize('classes', [256, 300])
def test_hundreds_of_classes_are_counted_and_drawn(halves, capsys, classes):
    train, val = halves
    for loader in halves:
        loader['dataset']['metainfo'] = dict(classes=[str(n) for n in range(classes)])
    code, output = check(capsys, train, val, classes)
    assert code == 0, output


def test_an_image_that_is_its_own_label_map_is_told(halves, capsys):
    fill('train', 1)
    code, output = check(capsys, loader_of('train', 'train'))
    assert code == 1
    assert 'train/0.png: is an image and its own label map' in output


def turned(path, mask, number):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.rot90(mask, 2).copy()).save(path, exif=exif)


def with_palette(path, mask, number):
    order = np.roll(np.arange(3), number)
    indexed = Image.fromarray(np.argsort(order)[mask].astype(np.uint8))
    indexed.putpalette(np.diag([255, 128, 64])[order].ravel().tolist())
    indexed.save(path)


@pytest.mark.parametrize(
    ('write', 'told'),
    [
        (turned, 'train_masks/0.png: is stored turned (EXIF orientation 3)'),
        (with_palette, 'train_masks/2.png: value 0 is '),
        (lambda path, mask, _: Image.fromarray(mask).save(path, 'JPEG'), 'compressed with losses'),
    ],
)
@pytest.mark.parametrize('scope', ['', 'mmseg.'])
def test_label_maps_that_load_as_other_classes_than_were_drawn_are_told(
    halves, capsys, write, told, scope
):
    for loader in halves:
        loader['dataset']['pipeline'][1] = dict(type=f'{scope}LoadAnnotations')
        for path in Path(loader['dataset']['data_prefix']['seg_map_path']).iterdir():
            write(path, np.asarray(Image.open(path)), int(path.stem))
    code, output = check(capsys, *halves, classes=6)
    assert code == 1
    assert told in output


def test_a_pipeline_without_a_step_that_loads_is_one_line(halves, capsys):
    halves[0]['dataset']['pipeline'] = [dict(type='RandomFlip', prob=0.5)]
    code, output = check(capsys, *halves)
    assert code == 1
    assert 'error: The pipeline of train_dataloader cannot be checked: none of its steps' in output


@pytest.mark.parametrize('name', ['grid', 'grid.jpg', 'train/0.png', 'made.py', 'val'])
def test_a_picture_that_is_not_ours_or_has_another_suffix_is_not_written(halves, capsys, name):
    assert check(capsys, *halves)[0] == 0
    assert main(['check', 'made.py', '--out', 'grid.png']) == 0  # its own, which it writes again
    before = Path('train/0.png').read_bytes()
    capsys.readouterr()
    assert main(['check', 'made.py', '--out', name]) == 1
    assert capsys.readouterr().err.startswith(f'error: --out {name}: is ')
    assert Path('train/0.png').read_bytes() == before
    assert not Path('grid').exists()
