"""From two folders to a config that trains, tests and predicts."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import mmcv
import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.own_data.config_text import BACKBONES, shorter_side
from tests.helpers.folders import contents_of, make_folders
from tests.helpers.stack import skip_unless_normalized
from tests.helpers.street_scenes import NARROW_OWN_DATA


def init(*arguments):
    return main(['init', 'images', 'masks', *arguments])


def train_two_iterations(work_dir) -> Runner:
    """Train by the config of ``init``, with a narrow network; checks that the best is kept."""
    cfg = Config.fromfile('mine/mine.py')
    cfg.merge_from_dict(NARROW_OWN_DATA)
    cfg.merge_from_dict({'train_cfg.val_interval': 2, 'default_hooks.checkpoint.interval': 2})
    cfg.work_dir = str(work_dir)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    assert list(work_dir.glob('best_mIoU_iter_2.pth'))
    return runner


@pytest.mark.parametrize(
    'kind',
    [
        {'image_name': 'day 1/{}_rgb.png', 'mask_name': 'day 1/{}_mask.png'},
        {'channels': 1, 'dtype': 'uint16', 'size': (43, 61)},
    ],
    ids=['names', '16 bits'],
)
def test_the_config_of_two_folders_trains_and_validates(here, capsys, kind):
    make_folders(here, **kind)
    assert init('--out', 'mine', '--iterations', '2') == 0
    assert 'pspnet train mine/mine.py' in capsys.readouterr().out
    runner = train_two_iterations(here / 'run')
    assert runner.model.decode_head.num_classes == 3
    assert len(runner.val_dataloader.dataset) == 2
    assert len(runner.train_dataloader.dataset) == 8


@pytest.mark.parametrize('size', [(96, 64), (64, 97), (50, 50), (2731, 33)])
@pytest.mark.parametrize('largest', [(96, 64), (64, 64), (1021, 2048)])
def test_the_shorter_side_is_that_of_mmcv(size, largest):
    assert shorter_side(size, largest) == min(mmcv.rescale_size(size, largest))


def test_the_config_holds_wherever_it_is_run_from_and_what_is_next_can_be_pasted(
    here, monkeypatch, capsys
):
    make_folders(here, mask_name='{}_mask.tif')  # not a suffix that all share: labels are written
    assert init('--out', 'my project') == 0
    printed = capsys.readouterr().out.splitlines()
    words = shlex.split(printed[-1])
    assert words[-3:] == ['pspnet', 'train', 'my project/my project.py']
    (here / 'elsewhere').mkdir()
    monkeypatch.chdir(here / 'elsewhere')
    config = str(here / words[-1])
    assert main(['check', config]) == 0
    assert shlex.split(capsys.readouterr().out.splitlines()[-1])[1:] == ['pspnet', 'train', config]
    (here / 'images').rename(here / 'moved')
    assert main(['check', config]) == 1
    error = capsys.readouterr().err
    assert f'{here / "images"} does not exist' in error
    assert 'data_root' not in error


@pytest.mark.parametrize('cached', [False, True])
def test_it_is_said_whether_training_will_download_weights(here, monkeypatch, capsys, cached):
    monkeypatch.setenv('TORCH_HOME', str(here))
    place = here / 'hub' / 'checkpoints' / 'resnet18-f37072fd.pth'
    if cached:
        place.parent.mkdir(parents=True)
        place.touch()
    make_folders(here)
    assert init() == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if 'weights: ' in line)
    assert ('needs no network' in line) == cached
    ways = str(place), 'another file', 'None', '--backbone efficientnet_lite0'
    assert [way in line for way in ways] == [not cached] * 4


def test_images_of_six_bands_are_read_by_gdal(here, capfd):
    skip_unless_normalized(6)
    make_folders(here, image_name='{}.tif', channels=1, dtype='uint16')
    for path in (here / 'images').iterdir():
        grey = np.asarray(Image.open(path))
        with rasterio.open(
            path, 'w', 'GTiff', grey.shape[1], grey.shape[0], 6, dtype=grey.dtype
        ) as file:
            file.write(np.stack([grey // n for n in range(1, 7)]))
    assert init('--out', 'mine', '--iterations', '2') == 0
    assert main(['check', 'mine/mine.py']) == 0
    assert 'channels' not in capfd.readouterr().err  # OpenCV's own complaint
    cfg = train_two_iterations(here / 'run').cfg
    assert cfg.test_dataloader.dataset.pipeline[0].type == 'LoadRaster'
    assert cfg.model.backbone.in_channels == len(cfg.model.data_preprocessor.mean) == 6


def test_large_images_are_trained_in_crops_and_predicted_in_windows(here):
    make_folders(here, 5, size=(600, 2080))
    assert init('--out', 'mine', '--iterations', '2') == 0
    assert main(['check', 'mine/mine.py']) == 0
    path = here / 'mine' / 'mine.py'
    path.write_text(path.read_text().replace('crop = (512, 512)', 'crop = (320, 330)'))
    runner = train_two_iterations(here / 'run')
    assert runner.model.test_cfg == dict(mode='slide', crop_size=(320, 330), stride=(213, 220))
    steps = runner.cfg.train_dataloader.dataset.pipeline
    assert [s.crop_size for s in steps if s.type == 'RandomCrop'] == [(600, 660), (320, 330)]
    for sample in (runner.train_dataloader.dataset[number] for number in range(4)):
        assert max(sample['inputs'].shape[1:]) <= 330
    assert runner.val_dataloader.dataset[0]['inputs'].shape[1:] == (600, 2080)


def test_the_config_of_images_of_many_sizes_and_shapes_passes_the_check(here, capsys):
    folders = make_folders(here)
    rng = np.random.default_rng(0)
    for path in sorted(folders[0].iterdir()):
        height, width = rng.integers(64, 140, 2)
        for folder in folders:
            file = folder / path.name
            Image.open(file).resize((width, height), Image.Resampling.NEAREST).save(file)
    assert init('--out', 'mine') == 0
    assert main(['check', 'mine/mine.py']) == 0, capsys.readouterr().err


def test_classes_crop_and_iterations_are_changed_in_one_place(here):
    make_folders(here)
    assert init('--out', 'mine') == 0
    path = here / 'mine' / 'mine.py'
    text = path.read_text()
    for old, new in (
        ("('class_0', 'class_1', 'class_2')", "('a', 'b', 'c', 'd')"),
        ('crop = (32, 32)', 'crop = (24, 40)'),
        ('iterations = 400', 'iterations = 123'),
        ('image_size = (56, 40)', 'image_size = (28, 20)'),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    cfg = Config.fromfile(path)
    model, steps = cfg.model, cfg.train_dataloader.dataset.pipeline
    assert {model.decode_head.num_classes, model.auxiliary_head.num_classes} == {4}
    assert cfg.test_dataloader.dataset.metainfo.classes == ('a', 'b', 'c', 'd')
    assert {step.num_classes for step in steps if step.type == 'CheckLabels'} == {4}
    assert model.data_preprocessor.size == (24, 40)
    assert [step.crop_size for step in steps if step.type == 'RandomCrop'] == [(24, 40)]
    assert (cfg.train_cfg.max_iters, cfg.param_scheduler[0].end) == (123, 123)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (28, 20)


@pytest.mark.parametrize('backbone', BACKBONES)
def test_without_pretrained_weights_the_model_starts_from_random_ones(here, backbone):
    make_folders(here)
    assert init('--out', 'mine', '--backbone', backbone) == 0
    path = here / 'mine' / 'mine.py'
    assert Config.fromfile(path).model.backbone.init_cfg.type == 'PretrainedBackbone'
    path.write_text(re.sub('(?m)^pretrained = .*', 'pretrained = None', path.read_text()))
    model = Config.fromfile(path).model
    assert model.backbone.init_cfg is None
    with DefaultScope.overwrite_default_scope('mmseg'):
        MODELS.build(model).init_weights()


@pytest.mark.parametrize(
    ('there', 'out'),
    [
        ('masks/../mine.py', '.'),  # the config, which is called after the folder
        ('train.txt', '.'),
        ('val.txt', '.'),
        ('mine/train.txt', 'mine'),
        ('labels/notes.txt', '.'),
        ('mine/labels', 'mine'),
    ],
)
def test_a_file_that_is_there_is_not_overwritten(tmp_path, monkeypatch, capsys, there, out):
    (tmp_path / 'mine').mkdir()
    monkeypatch.chdir(tmp_path / 'mine')
    make_folders(Path(), mask_values=(3, 90, 200))
    path = Path(there)
    path.parent.mkdir(exist_ok=True)
    path.write_text('by hand')
    before = contents_of(Path())
    assert init('--out', out) == 1
    named = path.parent if path.parent.name == 'labels' else path
    assert f'{named.name}: is there already; remove it, or name another' in capsys.readouterr().err
    assert contents_of(Path()) == before


@pytest.mark.parametrize('masks', ['labels', 'masks'])
@pytest.mark.parametrize('linked', [False, True])
def test_label_maps_are_not_written_into_the_folder_of_masks(here, capsys, masks, linked):
    make_folders(here, mask_values=(3, 90, 200))
    if masks == 'labels':
        Path('masks').rename('labels')
    elif linked:
        Path('labels').symlink_to('masks')
    before = contents_of(here)
    code = main(['init', 'images', masks, '--out', '.'])
    assert code == (masks == 'labels' or linked), capsys.readouterr().err
    after = contents_of(here)
    assert before.items() <= after.items()
    assert len(after) == len(before) if code else len(after) > len(before)


@pytest.mark.parametrize('out', ['images', 'masks', 'images/mine', 'masks/../images/a/b'])
def test_nothing_is_written_into_a_folder_that_is_read(here, capsys, out):
    make_folders(here)
    before = contents_of(here)
    assert init('--out', out) == 1
    assert ', which is read; name another folder with --out' in capsys.readouterr().err
    assert contents_of(here) == before
