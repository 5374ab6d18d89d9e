"""Images in windows, and rasters with their georeference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import rasterio
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from pspnet_plugin import init_model as fast_model
from pspnet_plugin import predict
from pspnet_plugin.app.commands import main
from pspnet_plugin.app.prediction.folder import predict_folder
from pspnet_plugin.app.prediction.predictor import PredictOptions
from pspnet_plugin.errors import PredictionError
from tests.helpers.folders import PLACE, image_of, mask_of, write_raster
from tests.helpers.prediction import random_checkpoint, share_equal, small_config
from tests.helpers.processes import ROOT
from tests.helpers.stack import skip_unless_normalized

SIZE = (97, 131)  # rows, columns


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config whose test pipeline changes no size, and a checkpoint."""
    folder = tmp_path_factory.mktemp('trained')
    cfg = small_config(ROOT / 'configs' / 'psp_r18_cityscapes.py')
    cfg.test_pipeline = [step for step in cfg.test_pipeline if step.type != 'Resize']
    cfg.test_dataloader.dataset.pipeline = cfg.test_pipeline
    cfg.dump(folder / 'config.py')
    return str(folder / 'config.py'), random_checkpoint(cfg, folder / 'checkpoint.pth')


@pytest.fixture(scope='module')
def scene():
    """(H, W, 3) uint8 RGB."""
    return image_of(mask_of(1, size=SIZE), 1)


def run(trained, images, out, *options):
    files = [*trained, str(images), '--out', str(out)]
    return main(['predict', *files, '--window', '64', *options, '--device', 'cpu'])


def read_raster(path):
    with rasterio.open(path) as file:
        return file.read(), file.profile


def test_one_window_gives_the_labels_of_stock_and_many_give_every_pixel(trained, scene):
    model = fast_model(*trained, device='cpu')
    (found,) = predict(model, scene, window=200)
    stock = inference_model(init_model(*trained, device='cpu'), scene).pred_sem_seg.data[0]
    assert share_equal(found.label_map, stock.numpy()) >= 0.9999
    (found,) = predict(model, scene, window=64, probabilities=True)
    assert found.probabilities.shape == (19, *SIZE)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.probabilities.argmax(0), found.label_map)


def test_a_raster_gets_the_labels_of_the_same_image_and_keeps_its_place(trained, scene, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    Image.fromarray(scene).save(images / 'image.png')
    write_raster(images / 'raster.tif', np.moveaxis(scene, 2, 0), **PLACE)
    out, options = tmp_path / 'out', ['--overlap', '16', '--probabilities']
    assert run(trained, images, out, *options) == 0
    (labels,), profile = read_raster(out / 'labels' / 'raster.tif')
    with Image.open(out / 'labels' / 'image.png') as image:
        np.testing.assert_array_equal(labels, np.asarray(image))
    assert (profile['crs'], profile['transform']) == (PLACE['crs'], PLACE['transform'])
    assert profile['nodata'] == 255
    probabilities, profile = read_raster(out / 'probabilities' / 'raster.tif')
    assert profile['transform'] == PLACE['transform']
    assert probabilities.shape == (19, *SIZE)
    assert abs(probabilities.sum(0, dtype=int) - 65535).max() <= 19
    table = (out / 'shares.csv').read_text().splitlines()
    assert table[1].partition(',')[2] == table[2].partition(',')[2]
    before = (out / 'labels' / 'raster.tif').stat().st_mtime_ns
    assert run(trained, images, out, *options) == 0
    assert (out / 'labels' / 'raster.tif').stat().st_mtime_ns == before
    assert (out / 'shares.csv').read_text().splitlines() == table


def test_16_bits_and_more_channels_are_read_as_the_config_says(tmp_path):
    cfg = small_config(ROOT / 'configs' / 'psp_r18_cityscapes.py')
    cfg.model.backbone.in_channels = 5
    cfg.model.data_preprocessor.update(mean=[3e4], std=[1e4], bgr_to_rgb=False)
    loader = {'type': 'LoadImageFromFile', 'color_type': 'unchanged', 'to_float32': True}
    cfg.test_pipeline = [loader, {'type': 'PackSegInputs'}]
    config = tmp_path / 'config.py'
    cfg.dump(config)
    checkpoint = random_checkpoint(Config.fromfile(config), tmp_path / 'checkpoint.pth')
    pixels = image_of(mask_of(1, size=SIZE), 1, channels=5, dtype='uint16')
    raster = write_raster(tmp_path / 'raster.tif', np.moveaxis(pixels, 2, 0), **PLACE)
    assert run((str(config), checkpoint), raster, tmp_path / 'out') == 0
    (labels,), _ = read_raster(tmp_path / 'out' / 'labels' / 'raster.tif')
    array = pixels.astype(np.float32)
    (found,) = predict(fast_model(str(config), checkpoint, 'cpu'), array, window=64)
    np.testing.assert_array_equal(labels, found.label_map)


def test_rasters_that_do_not_fit_are_named_and_leave_nothing_behind(
    trained, scene, tmp_path, capsys
):
    bands = np.moveaxis(scene, 2, 0)
    images = tmp_path / 'images'
    images.mkdir()
    write_raster(images / 'good.tif', bands, **PLACE)
    write_raster(images / 'bands.tif', bands[:2], **PLACE)
    write_raster(images / 'bits.tif', bands.astype(np.uint16) * 256, **PLACE)
    cut = write_raster(images / 'cut.tif', bands, **PLACE)
    cut.write_bytes(cut.read_bytes()[:9000])
    (images / 'text.tif').write_text('no raster')
    assert run(trained, images, tmp_path / 'out') == 1
    told = capsys.readouterr().err
    assert 'bands.tif: has 2 bands, but the model reads 3.' in told
    assert 'bits.tif: has uint16 values, but the config reads images with 8 bits' in told
    assert 'cut.tif: ' in told
    assert 'text.tif: cannot be opened as a raster' in told
    assert 'good.tif' not in told
    assert [path.name for path in (tmp_path / 'out' / 'labels').iterdir()] == ['good.tif']


def test_a_raster_that_cannot_be_written_is_one_line_and_leaves_nothing(
    trained, scene, tmp_path, monkeypatch, capsys
):
    def full(*arguments, **options):
        raise rasterio.errors.RasterioIOError('no space left on device')

    raster = write_raster(tmp_path / 'raster.tif', np.moveaxis(scene, 2, 0), **PLACE)
    monkeypatch.setattr(rasterio.io.DatasetWriter, 'write', full)
    assert run(trained, raster, tmp_path / 'out') == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert 'labels/raster.tif cannot be written: no space left on device. What was' in told
    assert list((tmp_path / 'out' / 'labels').iterdir()) == []


POINTS = [
    GroundControlPoint(row, column, 600000 + column, 5300000 - row)
    for row, column in [(0, 0), (0, 130), (96, 0), (96, 130)]
]


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_ground_control_points_and_camera_models_are_kept(trained, scene, tmp_path):
    bands = np.moveaxis(scene, 2, 0)
    images, out = tmp_path / 'images', tmp_path / 'out'
    images.mkdir()
    write_raster(images / 'points.tif', bands, gcps=POINTS, crs='EPSG:32632')
    camera = RPC(
        *(0.0, 1.0, 45.0, 1.0, [0.1] * 20, [0.2] * 20, 48.0, 1.0, 11.0, 1.0, [0.3] * 20),
        *([0.4] * 20, 65.0, 65.0),
    )
    write_raster(images / 'camera.tif', bands, rpcs=camera)
    assert run(trained, images, out, '--probabilities') == 0
    for path, folder in itertools.product(images.iterdir(), ('labels', 'probabilities')):
        with rasterio.open(path) as image, rasterio.open(out / folder / path.name) as result:
            places = [
                (
                    file.crs,
                    file.gcps[1],
                    file.rpcs,
                    [(p.row, p.col, p.x, p.y) for p in file.gcps[0]],
                )
                for file in (image, result)
            ]
            assert places[0] == places[1]
            assert image.rpcs or len(image.gcps[0]) == 4


def test_of_256_classes_none_is_taken_for_pixels_without_data(tmp_path, scene):
    cfg = small_config(ROOT / 'configs' / 'psp_r18_cityscapes.py')
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.num_classes = 256
    cfg.test_pipeline = [step for step in cfg.test_pipeline if step.type != 'Resize']
    checkpoint = random_checkpoint(cfg, tmp_path / 'checkpoint.pth')
    model = fast_model(cfg, checkpoint, device='cpu')
    with torch.no_grad():  # the last class wins
        model.decode_head.conv_seg.bias[255] += 1000
    bands = np.moveaxis(scene, 2, 0).clip(1)
    bands[:, :9] = 0
    Image.fromarray(np.moveaxis(bands, 0, 2)).save(tmp_path / 'image.png')
    raster = write_raster(tmp_path / 'raster.tif', bands, nodata=0, **PLACE)
    images, options = [tmp_path / 'image.png', raster], PredictOptions(window=64)
    predict_folder(model, images, tmp_path / 'out', options)
    (labels,), profile = read_raster(tmp_path / 'out' / 'labels' / 'raster.tif')
    assert (profile['dtype'], profile['nodata']) == ('uint16', 65535)
    (found,) = predict(model, tmp_path / 'image.png', window=64)
    assert (found.label_map == 255).mean() > 0.5
    np.testing.assert_array_equal(labels[9:], found.label_map[9:])
    assert (labels[:9] == 65535).all()
    with Image.open(tmp_path / 'out' / 'labels' / 'image.png') as image:
        np.testing.assert_array_equal(np.asarray(image), found.label_map)


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        (['--overlap', '40'], 'Windows of 64 pixels cannot share 40'),
        (['--overlap', '-1'], 'Windows of 64 pixels cannot share -1'),
        (['--tta'], 'choose one'),
    ],
)
def test_options_that_do_not_fit_are_one_line(trained, tmp_path, capsys, options, told):
    assert run(trained, ROOT / 'docs', tmp_path / 'out', *options) == 1
    assert told in capsys.readouterr().err


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
@pytest.mark.parametrize(
    ('loader', 'channels'),
    [
        ({'type': 'LoadRaster'}, 3),
        ({'type': 'LoadRaster'}, 4),
        ({'type': 'LoadImageFromFile', 'color_type': 'unchanged'}, 4),
    ],
)
def test_windows_read_the_channels_in_the_order_of_the_loader(
    trained, scene, tmp_path, loader, channels
):
    skip_unless_normalized(channels)
    cfg = Config.fromfile(trained[0])
    cfg.model.backbone.in_channels = channels
    means = [120, 110, 100, 90][:channels]
    cfg.model.data_preprocessor.update(mean=means, std=[58] * channels, bgr_to_rgb=channels == 3)
    cfg.test_pipeline[0] = loader
    checkpoint = random_checkpoint(cfg, tmp_path / 'checkpoint.pth')
    bands = np.concatenate([np.moveaxis(scene, -1, 0), scene[None, ..., 0] // 2])[:channels]
    options = {'photometric': 'RGB', 'alpha': 'no', **PLACE}
    path = write_raster(tmp_path / 'scene.tif', bands, **options)
    model = fast_model(cfg, checkpoint, device='cpu')
    (whole,) = predict(model, path)
    expected = inference_model(init_model(cfg, checkpoint, device='cpu'), str(path))
    assert (whole.label_map == expected.pred_sem_seg.data[0].numpy()).mean() >= 0.9999
    out = tmp_path / 'out'
    predict_folder(model, path, out, PredictOptions(window=200))
    labels, _ = read_raster(out / 'labels' / 'scene.tif')
    assert share_equal(labels[0], whole.label_map) >= 0.9999


@pytest.mark.parametrize(
    'step',
    [
        {'type': 'Normalize', 'mean': [120] * 3, 'std': [58] * 3, 'to_rgb': True},
        {'type': 'mmseg.CLAHE'},
        {'type': 'CenterCrop', 'crop_size': (64, 64)},
    ],
)
def test_windows_leave_out_no_step_that_changes_pixels(trained, scene, step):
    model = fast_model(*trained, device='cpu')
    steps = model.cfg.test_pipeline
    model.cfg.test_pipeline = [steps[0], {'type': 'Pad', 'size_divisor': 32}, *steps[1:]]
    assert next(predict(model, scene, window=64)).label_map.shape == SIZE
    model.cfg.test_pipeline = [steps[0], step, *steps[1:]]
    with pytest.raises(PredictionError, match=rf'changes them \({step["type"].split(".")[-1]}\)'):
        predict(model, scene, window=64)
