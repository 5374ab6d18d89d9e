"""An ONNX file gives mmseg's label maps in ONNX Runtime, which is asked here without our code."""

import numpy as np
import onnxruntime
import pytest

from pspnet_plugin.export import ExportSettings, export_model
from tests.helpers.exports import (
    NETWORKS,
    pixels,
    small_config,
    stock_labels,
    write_checkpoint,
)

ODD_SIZES = [(250, 330), (161, 203), (40, 56)]  # the bins divide none of them


@pytest.fixture(scope='module')
def label_file(config, checkpoint, tmp_path_factory):
    """Pixels to labels, of any size."""
    path = tmp_path_factory.mktemp('onnx') / 'labels.onnx'
    settings = ExportSettings(normalize=True, output='labels')
    report = export_model(config, checkpoint, path, settings)
    assert report.checked_on == 'the validation set'
    assert report.other_labels <= 0.001
    return path


def run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    (result,) = session.run(None, {'image': images})
    return result


@pytest.mark.parametrize('batch', [1, 2, 3])
@pytest.mark.parametrize('size', ODD_SIZES, ids=str)
def test_labels_are_those_of_mmseg_at_any_size_and_batch(
    config, checkpoint, label_file, size, batch
):
    images = pixels(size, batch)
    labels = run(label_file, np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    expected = stock_labels(config, checkpoint, images)
    assert labels.dtype == np.uint8
    assert labels.shape == expected.shape == (batch, *size)
    assert len(np.unique(expected)) >= 3
    assert (labels == expected).mean() >= 0.999


@pytest.mark.parametrize('network', [name for name in NETWORKS if name != 'PSPNet'])
def test_other_networks_are_written_too(network, street_scenes, tmp_path):
    config = small_config(network, street_scenes)
    checkpoint = write_checkpoint(config, tmp_path / 'random.pth')
    path = tmp_path / 'network.onnx'
    export_model(config, checkpoint, path, ExportSettings(normalize=True, output='labels'))
    images = pixels((90, 130), 2)
    labels = run(path, np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    assert (labels == stock_labels(config, checkpoint, images)).mean() >= 0.999
