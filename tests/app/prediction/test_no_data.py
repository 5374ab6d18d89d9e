"""Pixels that are no numbers have no label, and change none of the others."""

from __future__ import annotations

import csv
import dataclasses
import functools
import warnings

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.apis import inference_model
from mmseg.apis import init_model as stock_model
from PIL import Image

from pspnet_plugin import init_model, predict
from pspnet_plugin.app.commands import main
from pspnet_plugin.errors import ImageError
from tests.helpers.folders import PLACE, image_of, mask_of, write_raster
from tests.helpers.prediction import random_checkpoint, share_equal, small_config
from tests.helpers.processes import ROOT
from tests.helpers.stack import skip_unless_normalized

SIZE, BANDS = (64, 96), 5
MEAN = [0.1, 0.2, 0.3, 0.4, 0.5]
LOADERS = {
    'LoadRaster': dict(type='LoadRaster'),
    'LoadImageFromFile': dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True),
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Config and checkpoint by the loader and the number of bands."""

    @functools.cache
    def written(loader, bands=BANDS):
        skip_unless_normalized(bands)
        folder = tmp_path_factory.mktemp(loader)
        cfg = small_config(ROOT / 'configs' / 'psp_r18_cityscapes.py')
        cfg.model.backbone.in_channels = bands
        cfg.model.data_preprocessor.update(mean=MEAN[:bands], std=[0.1] * bands, bgr_to_rgb=False)
        cfg.test_pipeline = [LOADERS[loader], {'type': 'PackSegInputs'}]
        cfg.dump(folder / 'config.py')
        cfg = Config.fromfile(folder / 'config.py')
        return str(folder / 'config.py'), random_checkpoint(cfg, folder / 'checkpoint.pth')

    return written


@pytest.fixture
def scene():
    """Reflectances, (H, W, BANDS) float32."""
    return (image_of(mask_of(1, size=SIZE), 1, BANDS) / 255).astype(np.float32)


def spoiled(scene, value):
    """The scene with 101 pixels without data, and which have some."""
    scene, has_data = scene.copy(), np.ones(SIZE, bool)
    scene[20:30, 40:50] = value
    scene[50, 60, 0] = value  # one band
    has_data[20:30, 40:50] = has_data[50, 60] = False
    return scene, has_data


def expected_labels(model, pixels, has_data, **options):
    """What the model sees where the mean stands for what is missing, and 255 there."""
    filled = np.where(has_data[..., None], pixels, np.float32(MEAN[: pixels.shape[2]]))
    (found,) = predict(model, filled, **options)
    return np.where(has_data, found.label_map, 255)


@pytest.mark.parametrize(
    ('value', 'nodata', 'loader', 'window'),
    [
        (np.nan, None, 'LoadRaster', 64),
        (np.inf, None, 'LoadRaster', None),
        (-9999, -9999, 'LoadRaster', None),
        (-9999, -9999, 'LoadRaster', 64),
        (np.nan, np.nan, 'LoadRaster', None),
        (np.nan, None, 'LoadImageFromFile', None),
        (-9999, -9999, 'LoadImageFromFile', None),
        (-9999, -9999, 'LoadImageFromFile', 64),
    ],
)
def test_pixels_without_data_have_no_label_and_the_mean_for_the_network(
    trained, scene, tmp_path, value, nodata, loader, window
):
    bands = 3 if loader == 'LoadImageFromFile' else BANDS  # OpenCV reads them as BGR
    pixels, has_data = spoiled(scene[..., :bands], value)
    path = write_raster(tmp_path / 'a.tif', np.moveaxis(pixels, -1, 0), nodata=nodata, **PLACE)
    files = trained(loader, bands)
    model = init_model(*files, device='cpu')
    order = [2, 1, 0] if bands == 3 else range(bands)
    expected = expected_labels(model, pixels[..., order], has_data, window=window)
    assert len(np.unique(expected)) > 3
    options = [] if window is None else ['--window', str(window), '--overlap', '16']
    command = ['predict', *files, str(path), '--out', str(tmp_path / 'out'), '--device', 'cpu']
    assert main([*command, *options, '--probabilities']) == 0
    suffix = '.png' if window is None else '.tif'
    with Image.open(tmp_path / 'out' / 'labels' / f'a{suffix}') as labels:
        np.testing.assert_array_equal(np.asarray(labels), expected)
    with open(tmp_path / 'out' / 'shares.csv', newline='') as file:
        _, (_, *shares) = csv.reader(file)
    counts = np.bincount(expected[has_data], minlength=19)
    np.testing.assert_allclose(np.array(shares, float), counts / counts.sum(), atol=1e-6)
    assert main([*command, *options, '--probabilities']) == 0


@pytest.mark.parametrize('window', [None, 64])
def test_arrays_with_nan_are_predicted_alike(trained, scene, window):
    model = init_model(*trained('LoadRaster'), device='cpu')
    pixels, has_data = spoiled(scene, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        (found,) = predict(model, pixels, window=window, probabilities=True)
        found.overlay(legend=True)
    expected = expected_labels(model, pixels, has_data, window=window)
    np.testing.assert_array_equal(found.label_map, expected)
    assert not found.probabilities[:, ~has_data].any()
    np.testing.assert_allclose(found.probabilities[:, has_data].sum(0), 1, atol=1e-5)
    assert found.counts.sum() == has_data.sum()


@pytest.mark.parametrize('classes', [2, 4, 16, 17])
def test_pixels_without_data_are_255_in_files_of_few_classes_too(trained, scene, tmp_path, classes):
    model = init_model(*trained('LoadRaster'), device='cpu')
    pixels, has_data = spoiled(scene, np.nan)
    (found,) = predict(model, pixels)
    expected = np.where(has_data, found.label_map % classes, 255).astype(np.uint8)
    palette = found.palette[:classes]
    dataclasses.replace(found, label_map=expected, palette=palette).save(tmp_path / 'labels.png')
    with Image.open(tmp_path / 'labels.png') as labels:
        np.testing.assert_array_equal(np.asarray(labels), expected)
        assert labels.getpalette()[: 3 * classes] == [part for rgb in palette for part in rgb]


def test_black_is_no_data_only_where_all_bands_are_black(tmp_path):
    cfg = small_config(ROOT / 'configs' / 'psp_r18_cityscapes.py')
    model = init_model(cfg, random_checkpoint(cfg, tmp_path / 'a.pth'), device='cpu')
    pixels = image_of(mask_of(1, size=SIZE), 1).clip(1)
    pixels[:10, :10] = 0
    pixels[30:40, :, 0] = 0
    path = write_raster(tmp_path / 'a.tif', np.moveaxis(pixels, -1, 0), nodata=0, **PLACE)
    for window in (None, 64):
        (found,) = predict(model, path, window=window)
        np.testing.assert_array_equal(found.label_map == 255, (pixels == 0).all(2))


def test_several_pages_are_an_error_that_names_the_file(trained, tmp_path):
    model = init_model(*trained('LoadRaster', 1), device='cpu')
    pages = [Image.fromarray(np.full(SIZE, n, np.uint8)) for n in range(3)]
    pages[0].save(tmp_path / 'a.tif', save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match=r'a\.tif: has 3 pages'):
        list(predict(model, tmp_path / 'a.tif'))


def test_other_images_than_rasters_are_read_by_load_raster_too_if_they_are_whole(trained, tmp_path):
    config, checkpoint = trained('LoadRaster', 1)
    model = init_model(config, checkpoint, device='cpu')
    image = Image.fromarray(image_of(mask_of(1, size=SIZE), 1, 1, 'uint16'))
    exif = Image.Exif()
    exif[0x0112] = 8
    image.save(tmp_path / 'a.png', exif=exif)
    (found,) = predict(model, tmp_path / 'a.png')
    (opened,) = predict(model, Image.open(tmp_path / 'a.png'))
    stock = inference_model(stock_model(config, checkpoint, device='cpu'), str(tmp_path / 'a.png'))
    for label_map in (opened.label_map, stock.pred_sem_seg.data[0].numpy()):
        assert label_map.shape == SIZE[::-1]
        assert share_equal(label_map, found.label_map) >= 0.999
    content = (tmp_path / 'a.png').read_bytes()
    (tmp_path / 'a.png').write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r'a\.png: is cut'):
        list(predict(model, tmp_path / 'a.png'))
