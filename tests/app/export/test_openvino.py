"""A file for OpenVINO gives mmseg's labels in OpenVINO, which is asked here without our code."""

import json
import subprocess
import sys

import numpy as np
import openvino
import pytest
from PIL import Image

from pspnet_plugin.app.export import ExportSettings, export_model
from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER
from tests.helpers.exports import CLASSES, PALETTE, as_input, pixels, stock_labels
from tests.helpers.processes import ROOT

FORMAT, SUFFIX = 'openvino', '.xml'


def run(path, images):
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    return openvino.Core().compile_model(path, 'CPU', exact)(images)[0]


@pytest.mark.parametrize(('size', 'batch'), [((250, 330), 2), ((161, 203), 3), ((40, 56), 1)])
def test_labels_are_those_of_mmseg_at_any_size_and_batch(
    config, checkpoint, label_file, size, batch
):
    images = pixels(size, batch)
    labels = run(label_file, as_input(images))
    expected = stock_labels(config, checkpoint, images)
    assert labels.shape == expected.shape
    assert (labels == expected).mean() >= 0.999


def test_the_file_says_what_it_means(label_file):
    model = openvino.Core().read_model(label_file)
    assert json.loads(model.get_rt_info(['pspnet', 'classes']).value) == list(CLASSES)
    assert json.loads(model.get_rt_info(['pspnet', 'palette']).value) == PALETTE


@pytest.mark.skipif(not HAS_DYNAMO_EXPORTER, reason='nncf needs a newer torch')
def test_int8_keeps_most_labels(config, checkpoint, label_file, tmp_path):
    path = tmp_path / 'int8.xml'
    settings = ExportSettings(to='openvino', normalize=True, output='labels', int8=True)
    report = export_model(config, checkpoint, path, settings)
    assert set(report.mean_ious) == {'float32', 'int8'}
    images = pixels((64, 128), 2)
    expected = stock_labels(config, checkpoint, images)
    assert (run(path, as_input(images)) == expected).mean() >= 0.9
    assert path.with_suffix('.bin').stat().st_size < 0.5 * (
        label_file.with_suffix('.bin').stat().st_size
    )
    model = openvino.Core().read_model(path)
    assert json.loads(model.get_rt_info(['pspnet', 'classes']).value) == list(CLASSES)


def test_the_example_needs_nothing_of_ours(config, checkpoint, label_file, tmp_path):
    (image,) = pixels((50, 70))
    Image.fromarray(image[..., ::-1]).save(tmp_path / 'image.png')
    script = ROOT / 'examples' / 'openvino_predict.py'
    assert 'pspnet_plugin' not in script.read_text()
    subprocess.run(
        [sys.executable, script, label_file, 'image.png', 'labels.png'], cwd=tmp_path, check=True
    )
    with Image.open(tmp_path / 'labels.png') as labels:
        expected = stock_labels(config, checkpoint, image[None])[0]
        # On CPUs with units for bfloat16 OpenVINO computes in it unless it is told not to.
        assert (np.asarray(labels) == expected).mean() >= 0.9
