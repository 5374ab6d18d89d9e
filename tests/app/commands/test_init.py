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
from tests.helpers.street_scenes import NARROW

# A narrow ResNet-18 with random weights, and a run of two iterations.
SMALL = {
    'model.backbone.init_cfg': None,
    **NARROW,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'val_dataloader.num_workers': 0,
    'val_dataloader.persistent_workers': False,
    'train_cfg.val_interval': 2,
    'default_hooks.checkpoint.interval': 2,
}


def small_config(path, work_dir) -> Config:
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(SMALL)
    cfg.work_dir = str(work_dir)
    return cfg


@pytest.mark.parametrize(
    'kind',
    [
        {},
        {'image_name': 'day 1/{}_rgb.png', 'mask_name': 'day 1/{}_mask.png'},
        {'channels': 1, 'dtype': 'uint16', 'size': (43, 61)},
    ],
    ids=['plain', 'names', '16 bits'],
)
def test_the_config_of_two_folders_trains_and_validates(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path, **kind)
    assert main(['init', 'images', 'masks', '--out', 'mine', '--iterations', '2']) == 0
    assert 'pspnet train mine/mine.py' in capsys.readouterr().out
    cfg = small_config('mine/mine.py', tmp_path / 'run')
    assert cfg.model.decode_head.num_classes == 3
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    assert len(runner.val_dataloader.dataset) == 2
    assert len(runner.train_dataloader.dataset) == 8
    assert list((tmp_path / 'run').glob('best_mIoU_iter_2.pth'))


def test_images_of_six_bands_are_read_by_gdal(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path, image_name='{}.tif', channels=1, dtype='uint16')
    for path in (tmp_path / 'images').iterdir():
        grey = np.asarray(Image.open(path))
        with rasterio.open(
            path, 'w', 'GTiff', grey.shape[1], grey.shape[0], 6, dtype=grey.dtype
        ) as file:
            file.write(np.stack([grey // n for n in range(1, 7)]))
    assert main(['init', 'images', 'masks', '--out', 'mine', '--iterations', '2']) == 0
    assert main(['check', 'mine/mine.py']) == 0
    assert 'channels' not in capfd.readouterr().err  # OpenCV's own complaint
    cfg = small_config('mine/mine.py', tmp_path / 'run')
    assert cfg.test_dataloader.dataset.pipeline[0].type == 'LoadRaster'
    assert cfg.model.backbone.in_channels == len(cfg.model.data_preprocessor.mean) == 6
    Runner.from_cfg(cfg).train()
    assert list((tmp_path / 'run').glob('best_mIoU_iter_2.pth'))


def test_classes_crop_and_iterations_are_changed_in_one_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path)
    assert main(['init', 'images', 'masks', '--out', 'mine']) == 0
    path = tmp_path / 'mine' / 'mine.py'
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
def test_without_pretrained_weights_the_model_starts_from_random_ones(
    tmp_path, monkeypatch, backbone
):
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path)
    assert main(['init', 'images', 'masks', '--out', 'mine', '--backbone', backbone]) == 0
    path = tmp_path / 'mine' / 'mine.py'
    assert Config.fromfile(path).model.backbone.init_cfg.type == 'PretrainedBackbone'
    path.write_text(re.sub('(?m)^pretrained = .*', 'pretrained = None', path.read_text()))
    model = Config.fromfile(path).model
    assert model.backbone.init_cfg is None
    with DefaultScope.overwrite_default_scope('mmseg'):
        MODELS.build(model).init_weights()


def test_nothing_is_written_where_something_is_wrong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images, _ = make_folders(tmp_path)
    (images / '3.png').write_bytes(b'')
    assert main(['init', 'images', 'masks']) == 1
    assert '3.png: the file is empty' in capsys.readouterr().err
    assert not (tmp_path / 'pspnet_project').exists()


def test_an_existing_config_is_not_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_folders(tmp_path)
    assert main(['init', 'images', 'masks']) == 0
    assert main(['init', 'images', 'masks']) == 1
    assert 'is there already' in capsys.readouterr().err
