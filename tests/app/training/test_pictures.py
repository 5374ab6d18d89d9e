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


def drawn_on(kind: type, load: dict, *paths) -> list[tuple[str, np.ndarray]]:
    """The names and pictures that a hook hands to the visualizer for the images of a test."""
    drawn = []
    hook = kind.__new__(kind)  # without a visualizer, which is one for all of a process
    hook.draw, hook.interval, hook.show, hook.wait_time, hook.backend_args = True, 1, False, 0, None
    hook._test_index = 0  # of mmseg's fork
    hook._visualizer = SimpleNamespace(add_datasample=lambda *words, **more: drawn.append(words))
    cfg = Config({'test_dataloader': {'dataset': {'type': 'BaseSegDataset', 'pipeline': [load]}}})
    runner = SimpleNamespace(cfg=cfg, iter=0)
    hook.before_test(runner)
    for path in paths:
        hook.after_test_iter(runner, 0, {}, [SimpleNamespace(img_path=str(path))])
    return [(name, picture) for name, picture, *_ in drawn]


def test_an_image_in_colours_is_drawn_on_as_by_mmseg(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    load = {'type': 'LoadImageFromFile', 'to_float32': True}
    found = [
        drawn_on(kind, load, tmp_path / 'a.png')[0]
        for kind in (SegVisualizationHook, AnyImageVisualizationHook)
    ]
    assert [name for name, _ in found] == ['test_a.png'] * 2
    np.testing.assert_array_equal(*(picture for _, picture in found))


@pytest.mark.parametrize('bands', [2, 6])
def test_an_image_of_many_bands_is_drawn_on_by_the_first_ones(tmp_path, bands):
    pixels = np.random.default_rng(0).integers(0, 256, (bands, 8, 9), np.uint8)
    write_raster(tmp_path / 'a.tif', pixels)
    load = {'type': 'LoadRaster'}
    ((_, picture),) = drawn_on(AnyImageVisualizationHook, load, tmp_path / 'a.tif')
    shown = pixels[2::-1] if bands > 2 else pixels[[0, 0, 0]]
    np.testing.assert_array_equal(picture, shown.transpose(1, 2, 0))


def test_images_of_one_name_in_two_folders_have_a_picture_each(tmp_path):
    paths = [tmp_path / folder / 'a.png' for folder in ('site_1', 'site_2', 'more/site_1')]
    for path in paths:
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(path)
    drawn = drawn_on(AnyImageVisualizationHook, {'type': 'LoadImageFromFile'}, *paths)
    assert [name for name, _ in drawn] == [
        'test_a.png',
        'test_site_2_a.png',
        'test_more_site_1_a.png',
    ]
