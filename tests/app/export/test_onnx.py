"""An ONNX file gives mmseg's results in ONNX Runtime, which is asked here without our code."""

import json
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
import torch
from mmseg.apis import inference_model, init_model
from PIL import Image

from pspnet_plugin import ExportSettings, export_model
from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER
from tests.helpers.exports import (
    DILATED,
    HEAD,
    as_input,
    in_onnxruntime,
    pixels,
    small_config,
    stock_labels,
    write_checkpoint,
)
from tests.helpers.processes import ROOT

needs_dynamo_exporter = pytest.mark.skipif(
    not HAS_DYNAMO_EXPORTER, reason='torch before 2.7 records the sizes of transformers as numbers'
)


def test_batch_height_and_width_are_open(files):
    graph = onnx.load(files('onnx').path).graph
    dims = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ['batch', 3, 'height', 'width']
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_the_graph_convolves_no_concatenation(files):
    nodes = onnx.load(files('onnx').path).graph.node
    concatenations = {node.output[0] for node in nodes if node.op_type == 'Concat'}
    convolved = {node.input[0] for node in nodes if node.op_type == 'Conv'}
    assert concatenations  # the taps of the levels
    assert not concatenations & convolved


def test_a_file_of_one_size_gives_the_logits_of_mmseg(config, checkpoint, tmp_path):
    path = tmp_path / 'logits.onnx'
    report = export_model(config, checkpoint, path, ExportSettings(size=(72, 104)))
    assert report.checked_on.endswith(' of the images of the validation set')
    assert report.other_labels <= 0.001
    model = init_model(config.copy(), str(checkpoint), device='cpu')
    raw = [torch.from_numpy(image) for image in as_input(pixels((72, 104)))]
    x = model.data_preprocessor({'inputs': raw}, False)['inputs']
    with torch.no_grad():
        expected = model(x, mode='tensor').numpy()
    logits = in_onnxruntime(path, x.numpy())
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    model = onnx.load(path)
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 3, 72, 104]
    (about,) = [json.loads(entry.value) for entry in model.metadata_props if entry.key == 'input']
    assert about['channel_order'] == 'RGB'
    assert about['mean'] == config.model.data_preprocessor.mean


@pytest.mark.skipif(not HAS_DYNAMO_EXPORTER, reason='older torch records by computing on the CPU')
def test_float16_halves_the_file_and_gives_probabilities(config, checkpoint, files, tmp_path):
    path = tmp_path / 'half.onnx'
    settings = ExportSettings(normalize=True, output='probabilities', dtype='float16')
    export_model(config, checkpoint, path, settings)
    images = pixels((64, 128))
    probabilities = in_onnxruntime(path, as_input(images))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    expected = stock_labels(config, checkpoint, images)
    assert (probabilities.argmax(1) == expected).mean() >= 0.99
    weights = [
        sum(w.raw_data.__len__() for w in onnx.load(file).graph.initializer)
        for file in (path, files('onnx').path)
    ]
    assert weights[0] < 0.6 * weights[1]


@pytest.mark.parametrize(
    'network', ['UPerNet', 'HRNet', pytest.param('SegFormer', marks=needs_dynamo_exporter)]
)
def test_other_networks_are_written_too(network, tmp_path):
    config = small_config(network)
    checkpoint = write_checkpoint(config, tmp_path / 'random.pth')
    path = tmp_path / 'network.onnx'
    settings = ExportSettings(normalize=True, output='labels')
    report = export_model(config, checkpoint, path, settings)
    assert report.checked_on == 'noise'
    assert 'The validation set is not on this machine' in report.lines()[1]
    images = pixels((90, 130), 2)
    expected = stock_labels(config, checkpoint, images)
    assert (in_onnxruntime(path, as_input(images)) == expected).mean() >= 0.999


@pytest.mark.parametrize(('channels', 'is_checked'), [(1, True), (3, True), (3, False)])
def test_the_example_reads_images_of_16_bits_and_names_what_is_no_number(
    tmp_path, channels, is_checked
):
    config = small_config(
        data_preprocessor=dict(
            type='SegDataPreProcessor',
            mean=[30000] * channels,
            std=[20000] * channels,
            bgr_to_rgb=channels == 3,
            size=(64, 64),
        )
    )
    config.model.backbone = {**config.model.backbone, 'in_channels': channels}
    config.test_pipeline = [dict(type='LoadRaster'), dict(type='PackSegInputs')]
    stored = pixels((50, 70))[0, ..., :channels].astype(np.uint16) * 257
    (tmp_path / 'images').mkdir()
    image = tmp_path / 'images' / 'a.png'
    cv2.imwrite(str(image), stored)
    checkpoint, path = write_checkpoint(config, tmp_path / 'x.pth'), tmp_path / 'network.onnx'
    settings = ExportSettings(normalize=True, output='labels', size=(50, 70))
    report = export_model(config, checkpoint, path, settings, image.parent if is_checked else None)
    assert (report.checked_on == 'noise') != is_checked
    script = ROOT / 'examples' / 'onnxruntime_predict.py'
    subprocess.run([sys.executable, script, path, image, tmp_path / 'labels.png'], check=True)
    model = init_model(config, str(checkpoint), device='cpu')
    expected = inference_model(model, str(image)).pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    with Image.open(tmp_path / 'labels.png') as labels:
        assert (np.asarray(labels) == expected).mean() >= 0.999
    broken = stored.astype(np.float32)
    broken[0, 0] = np.nan
    uncompressed = cv2.IMWRITE_TIFF_COMPRESSION, 1  # OpenCV 4 writes logarithms, without NaN
    cv2.imwrite(str(tmp_path / 'b.tif'), broken, uncompressed)
    words = [sys.executable, script, path, tmp_path / 'b.tif', tmp_path / 'b.png']
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert 'b.tif: has pixels without data' in done.stderr
    assert not (tmp_path / 'b.png').exists()
    # GDAL, which LoadRaster reads by, gives 0 and 1, and numbers of colours; OpenCV does not.
    for number, mode in enumerate('1P'):
        raster = tmp_path / f'{number}.tif'
        Image.fromarray(stored[..., 0].astype(np.uint8)).convert(mode).save(raster)
        assert 'as 8, 16 or 32 bits, grey or RGB' in run_example(path, raster, raster).stderr


def run_example(path, image, out):
    script = ROOT / 'examples' / 'onnxruntime_predict.py'
    words = [sys.executable, script, path, image, out]
    return subprocess.run(words, check=False, capture_output=True, text=True)


PREPROCESSOR = dict(type='SegDataPreProcessor', mean=[120.0], std=[60.0], bgr_to_rgb=False)
SEVERAL = {**HEAD, 'type': 'PSPHead', 'in_channels': 64, 'in_index': 3, 'num_classes': 300}


@pytest.mark.parametrize(
    ('loader', 'model', 'output'),
    [
        ({}, {'decode_head': SEVERAL}, 'labels'),
        (
            {'color_type': 'grayscale'},
            {'data_preprocessor': PREPROCESSOR, 'backbone': {**DILATED, 'in_channels': 1}},
            'labels',
        ),
        (
            {},
            {'data_preprocessor': {**PREPROCESSOR, 'test_cfg': {'size_divisor': 32}}},
            'probabilities',
        ),
        ({}, {'data_preprocessor': {**PREPROCESSOR, 'test_cfg': {'size': (96, 96)}}}, 'labels'),
    ],
    ids=['300 classes', 'grey', 'multiples', 'padding'],
)
def test_the_example_gives_the_labels_of_mmseg(tmp_path, loader, model, output):
    config = small_config(**model)
    config.test_pipeline = [{'type': 'LoadImageFromFile', **loader}, {'type': 'PackSegInputs'}]
    checkpoint, path = write_checkpoint(config, tmp_path / 'x.pth'), tmp_path / 'network.onnx'
    size = None if output == 'probabilities' else (67, 101)
    settings = ExportSettings(normalize=True, output=output, size=size)
    report = export_model(config, checkpoint, path, settings)
    assert len(report.lines()) == 2  # and the second is about the noise
    image = tmp_path / 'a.png'
    cv2.imwrite(str(image), pixels((67, 101))[0])
    done = run_example(path, image, tmp_path / 'labels.png')
    assert done.returncode == 0, done.stderr
    stock = init_model(config, str(checkpoint), device='cpu')
    expected = inference_model(stock, str(image)).pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    with Image.open(tmp_path / 'labels.png') as labels:
        assert (np.asarray(labels) == expected).mean() >= 0.999


@pytest.mark.parametrize(
    ('step', 'model', 'told'),
    [
        ({'type': 'Normalize', 'mean': [120] * 3, 'std': [60] * 3}, {}, 'Normalize'),
        ({'type': 'ResizeToMultiple', 'size_divisor': 32}, {}, 'ResizeToMultiple'),
        ({'type': 'mmcv.Resize', 'scale_factor': 0.5}, {}, 'Resize by scale_factor'),
        (
            {'type': 'Resize', 'scale': 64},
            {'test_cfg': dict(mode='slide', crop_size=(64, 64), stride=(48, 48))},
            'windows (mode="slide")',
        ),
    ],
)
def test_what_the_file_does_not_do_is_told(tmp_path, step, model, told):
    config = small_config(**model)
    config.test_pipeline.insert(1, step)
    config.test_pipeline[2].scale = (96, 64)
    checkpoint, path = write_checkpoint(config, tmp_path / 'x.pth'), tmp_path / 'network.onnx'
    settings = ExportSettings(normalize=True, output='labels', size=(64, 96))
    report = export_model(config, checkpoint, path, settings)
    assert f'The config also has {told}, which the file does not do' in report.lines()[-1]
    cv2.imwrite(str(tmp_path / 'a.png'), pixels((67, 101))[0])
    done = run_example(path, tmp_path / 'a.png', tmp_path / 'labels.png')
    # Whole images are of use, too.
    is_warning = 'pspnet predict gives other labels: in windows' in done.stderr
    assert is_warning or f'its config has {told}, which is not done here' in done.stderr
    assert (tmp_path / 'labels.png').exists() == is_warning == ('windows' in told)


@pytest.mark.skipif(not hasattr(torch, 'uint16'), reason='torch >= 2.3')
def test_the_example_names_images_that_the_file_does_not_take(tmp_path):
    config = small_config()
    config.test_pipeline = [dict(type='LoadRaster', to_float32=False), dict(type='PackSegInputs')]
    (tmp_path / 'images').mkdir()
    image = pixels((64, 96))[0]
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), image.astype(np.uint16) * 257)
    checkpoint, path = write_checkpoint(config, tmp_path / 'x.pth'), tmp_path / 'network.onnx'
    settings = ExportSettings(normalize=True, output='labels', size=(64, 96))
    export_model(config, checkpoint, path, settings, check_images=tmp_path / 'images')
    cv2.imwrite(str(tmp_path / 'b.tif'), image.astype(np.float32))
    cv2.imwrite(str(tmp_path / 'c.png'), image[:50])
    for name, told in [
        ('b.tif', 'its values are float32, those of the file uint16'),
        ('c.png', 'becomes (50, 96) pixels, the file takes [64, 96]'),
    ]:
        done = run_example(path, tmp_path / name, tmp_path / 'labels.png')
        assert f'{name}: {told}' in done.stderr
        assert not (tmp_path / 'labels.png').exists()
