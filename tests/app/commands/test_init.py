"""From two folders to a config that trains, tests and predicts."""

from __future__ import annotations

import re

import numpy as np
import pytest
import rasterio
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.own_data.config_text import BACKBONES
from tests.helpers.folders import make_folders
from tests.helpers.street_scenes import NARROW_OWN_DATA


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


def test_images_of_six_bands_are_read_by_gdal(here, capfd):
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


def test_nothing_is_written_where_something_is_wrong_or_a_config_is_there(here, capsys):
    images, _ = make_folders(here)
    whole = (images / '3.png').read_bytes()
    (images / '3.png').write_bytes(b'')
    assert init() == 1
    assert '3.png: the file is empty' in capsys.readouterr().err
    assert not (here / 'pspnet_project').exists()
    (images / '3.png').write_bytes(whole)
    assert init() == 0
    assert init() == 1
    assert 'is there already' in capsys.readouterr().err
