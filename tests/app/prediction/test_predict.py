"""``predict``: the labels of mmseg's ``inference_model``, for all that is called an image."""

import copy
import functools
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.apis import inference_model
from mmseg.apis import init_model as stock_init_model
from mmseg.registry import MODELS
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from pspnet_plugin.app.images.drawing import flow
from pspnet_plugin.app.models import init_model
from pspnet_plugin.app.prediction import predict
from pspnet_plugin.errors import ImageError, PredictionError
from tests.helpers.prediction import (
    broken_files,
    photo,
    random_checkpoint,
    share_equal,
    small_config,
    stock_config,
    unusual_files,
    write_photo,
)
from tests.helpers.processes import ROOT

CONFIGS = ROOT / 'configs'


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Our model and mmseg's of a config, by the name of the config."""

    @functools.cache
    def ready(name):
        cfg = small_config(CONFIGS / f'{name}.py')
        checkpoint = random_checkpoint(cfg, tmp_path_factory.mktemp('models') / f'{name}.pth')
        ours = init_model(cfg, checkpoint, device='cpu')
        return ours, stock_init_model(stock_config(cfg), checkpoint, device='cpu')

    return ready


@pytest.fixture
def cityscapes(models):
    return models('psp_r50_cityscapes')


def stock_labels(stock, image):
    # mmseg changes the config of the model that it predicts with.
    stock = copy.copy(stock)
    stock.cfg = copy.deepcopy(stock.cfg)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return inference_model(stock, image).pred_sem_seg.data[0].numpy()


def only(predictions):
    (prediction,) = predictions
    return prediction


@pytest.mark.parametrize(
    'name', ['psp_r50_cityscapes', 'psp_r50_ade20k', 'psp_efflite0_bluemarble']
)
def test_labels_are_those_of_inference_model_at_every_size(models, name, tmp_path):
    ours, stock = models(name)
    sizes = [(67, 101), (96, 160), (160, 97), (33, 130), (250, 330)]
    paths = [write_photo(tmp_path / f'{n}.png', *size, seed=n) for n, size in enumerate(sizes)]
    for path, size, found in zip(paths, sizes, predict(ours, tmp_path)):
        assert found.path == path
        assert found.label_map.shape == size
        assert found.label_map.dtype == np.uint8
        assert found.probabilities is None
        assert share_equal(found.label_map, stock_labels(stock, path)) >= 0.9999


def test_images_of_one_size_go_through_the_network_together(cityscapes, tmp_path, monkeypatch):
    ours, _ = cityscapes
    sizes = [(60, 100), (60, 100), (60, 100), (100, 60), (60, 100)]
    paths = [write_photo(tmp_path / f'{n}.png', *size, seed=n) for n, size in enumerate(sizes)]
    alone = list(predict(ours, paths))
    batches = []
    step = ours.test_step
    monkeypatch.setattr(ours, 'test_step', lambda d: batches.append(len(d['inputs'])) or step(d))
    together = list(predict(ours, paths, batch_size=2))
    assert batches == [2, 1, 1, 1]
    assert [found.path for found in together] == paths
    for one, two in zip(alone, together):
        assert share_equal(one.label_map, two.label_map) >= 0.9999


def test_test_time_augmentation_averages_as_seg_tta_model_does(cityscapes, tmp_path):
    ours, stock = cityscapes
    path = write_photo(tmp_path / 'image.png')
    found = only(predict(ours, path, tta=True, probabilities=True))
    steps = [dict(step) for step in copy.deepcopy(ours.cfg.tta_pipeline)]
    steps[1]['transforms'] = [b for b in steps[1]['transforms'] if b[0].type != 'LoadAnnotations']
    with DefaultScope.overwrite_default_scope('mmseg'), torch.no_grad():
        model = MODELS.build(dict(type='SegTTAModel', module=stock)).eval()
        views = Compose(steps)({'img_path': path})
        data = {key: [[view] for view in value] for key, value in views.items()}
        expected = model.test_step(data)[0].pred_sem_seg.data[0]
    assert len(views['inputs']) == 12
    assert share_equal(found.label_map, expected.numpy()) >= 0.9999
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert found.probabilities.dtype == np.float32
    assert ours.test_cfg.seg_logits is False


# --- what is called an image --------------------------------------------------------------------


def test_one_image_in_every_form_gives_the_same_labels(cityscapes, tmp_path, monkeypatch, address):
    ours, _ = cityscapes
    path = Path(write_photo(tmp_path / 'sub folder' / '图像 1.png'))
    monkeypatch.chdir(tmp_path)
    rgb, address = photo(67, 101), f'{address}/sub%20folder/%E5%9B%BE%E5%83%8F%201.png'
    forms = [
        path,
        str(path),
        tmp_path,
        'sub*/*.png',
        '**/*.png',
        rgb[..., ::-1],  # BGR
        Image.fromarray(rgb),
        Image.open(path),
        address,
        [path],
        (item for item in [rgb[..., ::-1]]),
    ]
    found = [only(predict(ours, form)) for form in forms]
    assert len({prediction.label_map.tobytes() for prediction in found}) == 1
    assert [prediction.path for prediction in found[:5]] == [str(path)] * 3 + [
        'sub folder/图像 1.png'
    ] * 2
    assert [prediction.path for prediction in found[5:9]] == [None, None, None, address]


def test_results_come_while_the_images_do(cityscapes):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield photo(40, 60)

    predictions = predict(cityscapes[0], endless())
    assert next(predictions).label_map.shape == (40, 60)
    assert len(asked) <= 4
    predictions.close()


def test_unusual_files_are_read_as_mmcv_reads_them_also_when_pillow_opens_them(
    cityscapes, tmp_path
):
    ours, stock = cityscapes
    for path in unusual_files(tmp_path):
        found = only(predict(ours, path)).label_map
        assert found.shape == mmcv.imread(str(path)).shape[:2]
        assert (found == stock_labels(stock, str(path))).mean() >= 0.9999, path
        if path.suffix == '.png' or path.name == 'turned.jpg':
            opened = only(predict(ours, Image.open(path))).label_map
            assert (opened == found).mean() > 0.99, path
    assert only(predict(ours, tmp_path / 'turned.jpg')).label_map.shape == (90, 60)


def test_broken_files_are_named_and_the_others_go_on(cityscapes, tmp_path):
    expected = broken_files(tmp_path)
    good = write_photo(tmp_path / 'good.png')
    errors = []
    found = list(predict(cityscapes[0], tmp_path, batch_size=2, on_error=errors.append))
    assert [prediction.path for prediction in found] == [good]
    assert {error.name for error in errors} == set(expected)
    for error in errors:
        assert str(error).startswith(f'{error.name}: ')
        assert expected[error.name] in error.reason
    with pytest.raises(ImageError, match=r'bytes\.tif'):
        list(predict(cityscapes[0], tmp_path))


@pytest.mark.parametrize(
    ('image', 'said'),
    [
        (np.zeros((40, 50), np.uint8), r'image 0: has the shape \(40, 50\)'),
        (np.zeros((40, 50, 5), np.uint8), r'reads images of 3 channels, \(H, W, 3\)'),
        (np.zeros((0, 50, 3), np.uint8), r'has the shape \(0, 50, 3\)'),
        (np.zeros((1, 5000, 3), np.uint8), 'image 0: of 5000 x 1 pixels'),
        (Image.new('F', (9, 9)), 'floating-point'),
        ('http://127.0.0.1:9/a.png', 'http://127.0.0.1:9/a.png: cannot be read'),
    ],
)
def test_image_that_does_not_fit_is_an_error(cityscapes, image, said):
    with pytest.raises(ImageError, match=said):
        list(predict(cityscapes[0], image))


@pytest.mark.parametrize(
    ('images', 'batch_size', 'said'),
    [
        ('nothing.png', 1, r'match of nothing\.png'),
        ('nothing*.png', 1, r'match of nothing\*\.png'),
        (7, 1, '7 is no image'),
        ([7], 1, '7 is no image'),
        ('any.png', 0, 'batch_size=0'),
    ],
)
def test_arguments_that_mean_nothing_are_named(cityscapes, images, batch_size, said):
    with pytest.raises(PredictionError, match=said):
        list(predict(cityscapes[0], images, batch_size))


# --- what is done with a prediction -------------------------------------------------------------


def test_overlay_is_that_of_mmsegs_visualizer(cityscapes, tmp_path):
    found = only(predict(cityscapes[0], write_photo(tmp_path / 'image.png')))
    visualizer, meta = SegLocalVisualizer(alpha=0.7), cityscapes[0].dataset_meta
    labels = PixelData(data=torch.from_numpy(found.label_map)[None].long())
    # What add_datasample draws, before matplotlib resamples it (3.10 does).
    drawn = visualizer._draw_sem_seg(
        photo(67, 101), labels, meta['classes'], meta['palette'], with_labels=False
    )
    assert np.abs(found.overlay(opacity=0.7).astype(int) - drawn).max() <= 1


def test_legend_stands_below_the_picture(cityscapes, tmp_path):
    found = only(predict(cityscapes[0], write_photo(tmp_path / 'image.png', 60, 500)))
    plain, drawn = found.overlay(), found.overlay(legend=True)
    assert np.array_equal(drawn[:60], plain)
    shown = {tuple(pixel) for pixel in drawn[60:].reshape(-1, 3)}
    present = {tuple(found.palette[label]) for label in np.unique(found.label_map)}
    assert present <= shown
    assert flow([40, 40, 90, 10], 100) == [(0, 0), (40, 0), (0, 1), (90, 1)]


def test_saved_label_map_has_classes_as_values_and_their_colours(cityscapes, tmp_path):
    found = only(predict(cityscapes[0], write_photo(tmp_path / 'image.png')))
    found.save(tmp_path / 'new folder' / 'labels.png')
    with Image.open(tmp_path / 'new folder' / 'labels.png') as saved:
        assert saved.mode == 'P'
        assert np.array_equal(np.asarray(saved), found.label_map)
        coloured = np.asarray(saved.convert('RGB'))
    assert np.array_equal(coloured, np.array(found.palette)[found.label_map])
    assert found.counts.sum() == 67 * 101


def test_prediction_is_shown_in_one_line(cityscapes, tmp_path):
    path = write_photo(tmp_path / 'image.png')
    found = only(predict(cityscapes[0], path, probabilities=True))
    classes = np.unique(found.label_map).size
    assert repr(found) == f'Prediction({path!r}, 101 x 67 pixels, {classes} of 19 classes)'


def test_two_output_forms_of_a_binary_head_agree(tmp_path):
    cfg = small_config(CONFIGS / 'psp_r18_cityscapes.py')
    cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.5)
    cfg.model.auxiliary_head.num_classes = 2
    checkpoint = random_checkpoint(cfg, tmp_path / 'binary.pth')
    content = torch.load(checkpoint, weights_only=False)
    content['state_dict']['decode_head.conv_seg.weight'] *= 0.01  # far from 0 and 1
    torch.save(content, checkpoint)
    ours = init_model(cfg, checkpoint, device='cpu')
    stock = stock_init_model(stock_config(cfg), checkpoint, device='cpu')
    path = write_photo(tmp_path / 'image.png')
    middle = float(np.median(only(predict(ours, path, probabilities=True)).probabilities[1]))
    ours.decode_head.threshold = stock.decode_head.threshold = middle
    found = only(predict(ours, path, probabilities=True))
    assert share_equal(found.label_map, stock_labels(stock, path)) >= 0.999
    assert np.array_equal(found.label_map, found.probabilities[1] > middle)
    in_bfloat16 = init_model(cfg, checkpoint, device='cpu', dtype='bfloat16')
    in_bfloat16.decode_head.threshold = middle
    found = only(predict(in_bfloat16, path))
    assert share_equal(found.label_map, stock_labels(stock, path)) >= 0.9
