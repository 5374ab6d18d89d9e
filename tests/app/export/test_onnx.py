"""An ONNX file gives mmseg's results in ONNX Runtime, which is asked here without our code."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mmseg.apis import inference_model, init_model
from PIL import Image

from pspnet_plugin.app.export import ExportSettings, export_model
from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER
from tests.helpers.exports import (
    CLASSES,
    PALETTE,
    as_input,
    pixels,
    small_config,
    stock_labels,
    stock_mean_iou,
    write_checkpoint,
)
from tests.helpers.processes import ROOT

FORMAT, SUFFIX = 'onnx', '.onnx'
ODD_SIZES = [(250, 330), (161, 203), (40, 56)]  # the pyramid's bins divide none of their maps


needs_dynamo_exporter = pytest.mark.skipif(
    not HAS_DYNAMO_EXPORTER, reason='torch before 2.7 records the sizes of transformers as numbers'
)


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def run(path, images):
    (result,) = session_of(path).run(None, {'image': images})
    return result


def metadata_of(path):
    metadata = session_of(path).get_modelmeta().custom_metadata_map
    # ONNX Runtime's quantization adds a key of its own.
    return {k: json.loads(value) for k, value in metadata.items() if not k.startswith('onnx.')}


@pytest.mark.parametrize('batch', [1, 2, 3])
@pytest.mark.parametrize('size', ODD_SIZES, ids=str)
def test_labels_are_those_of_mmseg_at_any_size_and_batch(
    config, checkpoint, label_file, size, batch
):
    images = pixels(size, batch)
    labels = run(label_file, as_input(images))
    expected = stock_labels(config, checkpoint, images)
    assert labels.dtype == np.uint8
    assert labels.shape == expected.shape == (batch, *size)
    assert len(np.unique(expected)) >= 3
    assert (labels == expected).mean() >= 0.999


def test_the_file_says_what_it_needs_and_means(label_file):
    metadata = metadata_of(label_file)
    assert metadata['classes'] == list(CLASSES)
    assert metadata['palette'] == PALETTE
    assert metadata['output']['kind'] == 'labels'
    assert metadata['input']['channel_order'] == 'BGR'
    assert metadata['input']['mean'] is None
    assert metadata['input']['resize'] == [{'scale': [128, 64], 'keep_ratio': True}]
    (image,) = onnx.load(label_file).graph.input
    dims = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert dims == ['batch', 3, 'height', 'width']


def test_the_graph_convolves_no_concatenation(label_file):
    nodes = onnx.load(label_file).graph.node
    concatenations = {node.output[0] for node in nodes if node.op_type == 'Concat'}
    convolved = {node.input[0] for node in nodes if node.op_type == 'Conv'}
    assert concatenations  # the taps of the levels
    assert not concatenations & convolved


def test_a_file_of_one_size_gives_the_logits_of_mmseg(config, checkpoint, tmp_path):
    path = tmp_path / 'logits.onnx'
    export_model(config, checkpoint, path, ExportSettings(size=(72, 104)))
    model = init_model(config.copy(), str(checkpoint), device='cpu')
    raw = [torch.from_numpy(image) for image in as_input(pixels((72, 104)))]
    x = model.data_preprocessor({'inputs': raw}, False)['inputs']
    with torch.no_grad():
        expected = model(x, mode='tensor').numpy()
    logits = run(path, x.numpy())
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert session_of(path).get_inputs()[0].shape == [1, 3, 72, 104]
    about = metadata_of(path)['input']
    assert about['channel_order'] == 'RGB'
    assert about['mean'] == config.model.data_preprocessor.mean


@pytest.mark.skipif(not HAS_DYNAMO_EXPORTER, reason='older torch records by computing on the CPU')
def test_float16_halves_the_file_and_gives_probabilities(config, checkpoint, label_file, tmp_path):
    path = tmp_path / 'half.onnx'
    settings = ExportSettings(normalize=True, output='probabilities', dtype='float16')
    export_model(config, checkpoint, path, settings)
    images = pixels((64, 128))
    probabilities = run(path, as_input(images))
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    expected = stock_labels(config, checkpoint, images)
    assert (probabilities.argmax(1) == expected).mean() >= 0.99
    weights = [
        sum(w.raw_data.__len__() for w in onnx.load(file).graph.initializer)
        for file in (path, label_file)
    ]
    assert weights[0] < 0.6 * weights[1]


def test_int8_is_smaller_and_its_loss_is_measured_as_mmseg_measures(
    config, checkpoint, label_file, tmp_path
):
    path = tmp_path / 'int8.onnx'
    settings = ExportSettings(normalize=True, output='labels', int8=True)
    report = export_model(config, checkpoint, path, settings)
    assert report.mean_ious['float32'] == pytest.approx(stock_mean_iou(config, checkpoint), abs=0.1)
    images = pixels((64, 128), 2)
    expected = stock_labels(config, checkpoint, images)
    assert (run(path, as_input(images)) == expected).mean() >= 0.9
    nodes = onnx.load(path).graph.node
    from_int8 = {node.output[0] for node in nodes if node.op_type == 'DequantizeLinear'}
    assert {node.input[1] for node in nodes if node.op_type == 'Conv'} <= from_int8
    assert metadata_of(path)['classes'] == list(CLASSES)
    assert [file.name for file in tmp_path.iterdir()] == ['int8.onnx']


@pytest.mark.parametrize(
    'network', ['UPerNet', pytest.param('SegFormer', marks=needs_dynamo_exporter)]
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
    assert (run(path, as_input(images)) == stock_labels(config, checkpoint, images)).mean() >= 0.999


def test_the_example_needs_nothing_of_ours(config, checkpoint, label_file, tmp_path):
    (image,) = pixels((50, 70))
    Image.fromarray(image[..., ::-1]).save(tmp_path / 'image.png')
    script = ROOT / 'examples' / 'onnxruntime_predict.py'
    assert 'pspnet_plugin' not in script.read_text()
    done = subprocess.run(
        [sys.executable, script, label_file, 'image.png', 'labels.png'],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert [line.split(':')[0] for line in done.stdout.splitlines()] == list(CLASSES)
    with Image.open(tmp_path / 'labels.png') as labels:
        expected = stock_labels(config, checkpoint, image[None])[0]
        assert (np.asarray(labels) == expected).mean() >= 0.999
        assert labels.getpalette()[:6] == [*PALETTE[0], *PALETTE[1]]


def test_the_example_reads_images_of_one_channel_and_16_bits(tmp_path):
    config = small_config(
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=[30000], std=[20000], bgr_to_rgb=False, size=(64, 64)
        )
    )
    config.model.backbone = {**config.model.backbone, 'in_channels': 1}
    load = dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True)
    config.test_pipeline = [load, dict(type='PackSegInputs')]
    grey = pixels((50, 70))[0, ..., 0].astype(np.uint16) * 257
    (tmp_path / 'images').mkdir()
    image = tmp_path / 'images' / 'grey.png'
    Image.fromarray(grey).save(image)
    checkpoint, path = write_checkpoint(config, tmp_path / 'x.pth'), tmp_path / 'network.onnx'
    settings = ExportSettings(normalize=True, output='labels')
    export_model(config, checkpoint, path, settings, check_images=image.parent)
    script = ROOT / 'examples' / 'onnxruntime_predict.py'
    subprocess.run([sys.executable, script, path, image, tmp_path / 'labels.png'], check=True)
    model = init_model(config, str(checkpoint), device='cpu')
    expected = inference_model(model, str(image)).pred_sem_seg.data[0].numpy()
    assert len(np.unique(expected)) > 1
    with Image.open(tmp_path / 'labels.png') as labels:
        assert (np.asarray(labels) == expected).mean() >= 0.999
