"""Files of every format give mmseg's labels in their runtimes, which are asked without our code."""

import copy
import json
import signal
import subprocess
import sys

import numpy as np
import onnx
import openvino
import pytest
import torch
from mmseg.apis import inference_model, init_model
from PIL import Image

from pspnet_plugin import ExportSettings, export_model
from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER, open_openvino
from tests.helpers.exports import (
    CLASSES,
    PALETTE,
    as_input,
    in_onnxruntime,
    in_openvino,
    in_pytorch,
    pixels,
    stock_labels,
    stock_mean_iou,
)
from tests.helpers.processes import ROOT, run_copy

needs_dynamo_exporter = pytest.mark.skipif(
    not HAS_DYNAMO_EXPORTER, reason='torch.export and nncf need torch 2.7 or later'
)


def onnx_metadata(path):
    # ONNX Runtime's quantization adds a key of its own.
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return {key: json.loads(text) for key, text in entries.items() if not key.startswith('onnx.')}


def openvino_metadata(path):
    model = openvino.Core().read_model(path)
    return {
        key: json.loads(model.get_rt_info(['pspnet', key]).value)
        for key in ('classes', 'palette', 'output', 'input')
    }


def program_metadata(path):
    extra = {'metadata.json': ''}
    torch.export.load(path, extra_files=extra)
    return {key: json.loads(text) for key, text in json.loads(extra['metadata.json']).items()}


program = pytest.param('torch-export', in_pytorch, marks=needs_dynamo_exporter)
RUNTIMES = [('onnx', in_onnxruntime), ('openvino', in_openvino), program]


# The pyramid's bins divide none of the maps of these sizes.
@pytest.mark.parametrize(('size', 'batch'), [((250, 330), 2), ((161, 203), 3), ((40, 56), 1)])
@pytest.mark.parametrize(
    ('name', 'run'), [*RUNTIMES, ('winograd', in_onnxruntime), ('winograd', in_openvino)]
)
def test_labels_are_those_of_mmseg_at_any_size_and_batch(files, name, run, size, batch):
    written = files(name)
    images = pixels(size, batch)
    labels = run(written.path, as_input(images))
    expected = stock_labels(written.config, written.checkpoint, images)
    assert labels.shape == expected.shape == (batch, *size)
    assert len(np.unique(expected)) >= 3
    assert (labels == expected).mean() >= 0.999


def handled_after_openvino(path) -> int:
    """0 where Python handles a signal after the first of two networks went first."""
    handled = []
    signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    first, second = open_openvino(path), open_openvino(path)
    del first
    del second
    signal.raise_signal(signal.SIGTERM)
    return len(handled) - 1


def test_signals_are_handled_after_openvino(files, tmp_path):
    code, printed = run_copy(handled_after_openvino, files('openvino').path, folder=tmp_path)
    assert code == 0, printed


@pytest.mark.parametrize(
    ('name', 'read'),
    [
        ('onnx', onnx_metadata),
        ('openvino', openvino_metadata),
        pytest.param('torch-export', program_metadata, marks=needs_dynamo_exporter),
    ],
)
def test_the_file_says_what_it_needs_and_means(files, name, read):
    metadata = read(files(name).path)
    assert metadata['classes'] == list(CLASSES)
    assert metadata['palette'] == PALETTE
    assert metadata['output']['kind'] == 'labels'
    assert metadata['input']['channel_order'] == 'BGR'
    assert metadata['input']['mean'] is None
    assert metadata['input']['resize'] == [{'scale': [128, 64], 'keep_ratio': True}]


@pytest.mark.parametrize(
    ('to', 'run', 'read'),
    [
        ('onnx', in_onnxruntime, onnx_metadata),
        pytest.param('openvino', in_openvino, openvino_metadata, marks=needs_dynamo_exporter),
    ],
)
def test_int8_is_smaller_and_its_loss_is_measured_as_mmseg_measures(
    config, checkpoint, files, tmp_path, to, run, read
):
    exact = files(to).path
    path = tmp_path / exact.name
    settings = ExportSettings(to=to, normalize=True, output='labels', int8=True)
    report = export_model(config, checkpoint, path, settings)
    assert set(report.mean_ious) == {'float32', 'int8'}
    assert report.mean_ious['float32'] == pytest.approx(stock_mean_iou(config, checkpoint), abs=0.1)
    images = pixels((64, 128), 2)
    expected = stock_labels(config, checkpoint, images)
    assert (run(path, as_input(images)) == expected).mean() >= 0.9
    assert read(path)['classes'] == list(CLASSES)
    if to == 'onnx':
        nodes = onnx.load(path).graph.node
        from_int8 = {node.output[0] for node in nodes if node.op_type == 'DequantizeLinear'}
        assert {node.input[1] for node in nodes if node.op_type == 'Conv'} <= from_int8
        assert [file.name for file in tmp_path.iterdir()] == [path.name]
    else:
        sizes = [file.with_suffix('.bin').stat().st_size for file in (path, exact)]
        assert sizes[0] < 0.5 * sizes[1]


@pytest.mark.parametrize(
    ('name', 'script', 'exact'),
    [
        ('onnx', 'onnxruntime_predict.py', 0.999),
        # On CPUs with units for bfloat16 OpenVINO computes in it unless it is told not to.
        ('openvino', 'openvino_predict.py', 0.9),
    ],
)
# The test pipeline fits images into 128 x 64. Labels leave borders coarser than predict does.
@pytest.mark.parametrize(
    ('size', 'output', 'agreement'),
    [((64, 128), 'labels', 1), ((256, 512), 'labels', 0.95), ((70, 99), 'probabilities', 0.99)],
)
def test_the_example_needs_nothing_of_ours_and_gives_the_labels_of_predict(
    files, tmp_path, name, script, exact, size, output, agreement
):
    written = files(name if output == 'labels' else f'{name} {output}')
    (image,) = pixels(size)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    stored = np.rot90(image[..., ::-1]).copy()
    Image.fromarray(stored).save(tmp_path / 'image.png', exif=exif)
    script = ROOT / 'examples' / script
    assert 'pspnet_plugin' not in script.read_text()
    words = [sys.executable, script, written.path, 'image.png', 'labels.png']
    done = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert [line.split(':')[0] for line in done.stdout.splitlines()] == list(CLASSES)
    config = copy.deepcopy(written.config)  # which mmseg changes
    model = init_model(config, str(written.checkpoint), device='cpu')
    expected = inference_model(model, image).pred_sem_seg.data[0].numpy()
    with Image.open(tmp_path / 'labels.png') as labels:
        assert np.asarray(labels).shape == expected.shape == size
        assert (np.asarray(labels) == expected).mean() >= min(agreement, exact)
        assert labels.getpalette()[:6] == [*PALETTE[0], *PALETTE[1]]
