"""The images that ``pspnet test --show-dir`` draws on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.engine.hooks import SegVisualizationHook
from PIL import Image

from pspnet_plugin.app.training.pictures import AnyImageVisualizationHook
from tests.helpers.folders import write_raster


def drawn_on(kind: type, path, load: dict, images: dict | None = None) -> tuple[str, np.ndarray]:
    """The name and the picture that a hook hands to the visualizer for one image of a test."""
    drawn = []
    hook = kind.__new__(kind)  # without a visualizer, which is one for all of a process
    hook.draw, hook.interval, hook.show, hook.wait_time, hook.backend_args = True, 1, False, 0, None
    hook._test_index = 0  # of mmseg's fork
    hook._visualizer = SimpleNamespace(add_datasample=lambda *words, **more: drawn.append(words))
    dataset = {'type': 'BaseSegDataset', 'pipeline': [load], **(images or {})}
    cfg = Config({'test_dataloader': {'dataset': dataset}})
    runner = SimpleNamespace(cfg=cfg, iter=0)
    hook.after_test_iter(runner, 0, {}, [SimpleNamespace(img_path=str(path))])
    ((name, picture, *_),) = drawn
    return name, picture


def test_an_image_in_colours_is_drawn_on_as_by_mmseg(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    load = {'type': 'LoadImageFromFile', 'to_float32': True}
    found = [
        drawn_on(kind, tmp_path / 'a.png', load)
        for kind in (SegVisualizationHook, AnyImageVisualizationHook)
    ]
    assert [name for name, _ in found] == ['test_a.png'] * 2
    np.testing.assert_array_equal(*(picture for _, picture in found))


@pytest.mark.parametrize('bands', [2, 6])
def test_an_image_of_many_bands_is_drawn_on_by_the_first_ones(tmp_path, bands):
    pixels = np.random.default_rng(0).integers(0, 256, (bands, 8, 9), np.uint8)
    write_raster(tmp_path / 'a.tif', pixels)
    _, picture = drawn_on(AnyImageVisualizationHook, tmp_path / 'a.tif', {'type': 'LoadRaster'})
    shown = pixels[2::-1] if bands > 2 else pixels[[0, 0, 0]]
    np.testing.assert_array_equal(picture, shown.transpose(1, 2, 0))


def test_images_of_one_name_in_two_folders_have_a_picture_each(tmp_path):
    pixels = np.zeros((8, 9, 3), np.uint8)
    for folder in ('site_1', 'site_2'):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / 'a.png')
    images = {'data_root': str(tmp_path.parent), 'data_prefix': {'img_path': tmp_path.name}}
    load = {'type': 'LoadImageFromFile'}
    names = [
        drawn_on(AnyImageVisualizationHook, tmp_path / name, load, images)[0]
        for name in ('site_1/a.png', 'site_2/a.png')
    ]
    assert names == ['test_site_1_a.png', 'test_site_2_a.png']
