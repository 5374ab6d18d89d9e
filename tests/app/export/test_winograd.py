"""Convolutions by tiles are torch's, alone and within files, and other convolutions stay."""

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.export import ExportError, ExportSettings, winograd
from pspnet_plugin.app.export.network import Replaced
from tests.helpers.exports import (
    HEAD,
    as_input,
    pixels,
    small_config,
    stock_labels,
    write_checkpoint,
)


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    dilation=st.integers(1, 5),
    batch=st.integers(1, 2),
)
@settings(deadline=None)
def test_tiles_are_the_convolution(height, width, dilation, batch):
    x, weight = randn(batch, 3, height, width), randn(5, 3, 3, 3)
    expected = F.conv2d(x, weight, padding=dilation, dilation=dilation)
    found = winograd.conv2d_by_tiles(x, weight, dilation)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize(
    ('channels', 'options', 'left'),
    [
        ((4, 4), {'padding': 1}, 0),
        ((4, 4), {'padding': 1, 'bias': False}, 0),
        ((4, 4), {'padding': 2, 'dilation': 2}, 0),
        ((4, 3), {'padding': 1}, 1),
        ((3, 4), {'padding': 1}, 1),
        ((4, 4), {'padding': 1, 'stride': 2}, 1),
        ((4, 4), {'padding': 0}, 1),
        ((4, 4), {'padding': 1, 'dilation': 2}, 1),
        ((4, 4), {'padding': (1, 2), 'dilation': (1, 2)}, 1),
        ((4, 4), {'padding': 'same'}, 1),
        ((8, 8), {'padding': 1, 'groups': 2}, 1),
        ((4, 4), {'kernel_size': 5, 'padding': 2}, 1),
        ((4, 4), {'kernel_size': 1}, 1),
    ],
    ids=str,
)
def test_which_convolutions_are_computed_by_tiles(monkeypatch, channels, options, left):
    monkeypatch.setattr(winograd, 'FEWEST_CHANNELS', 4)
    conv = torch.nn.Conv2d(*channels, **{'kernel_size': 3, **options}).double()
    x = randn(2, channels[0], 9, 14)
    calls = []

    def counted(stock, *arguments):
        return winograd.convolved(lambda *given: calls.append(1) or stock(*given), *arguments)

    with Replaced({torch.conv2d: counted}):
        found = conv(x)
    torch.testing.assert_close(found, conv(x), rtol=0, atol=1e-13)
    assert len(calls) == left


@pytest.fixture(scope='module')
def wide_config(street_scenes):
    head = {**HEAD, 'type': 'PSPHead', 'in_channels': 64, 'in_index': 3, 'channels': 64}
    return small_config(data_root=street_scenes, decode_head=head)


@pytest.fixture(scope='module')
def wide_checkpoint(wide_config, tmp_path_factory):
    return write_checkpoint(wide_config, tmp_path_factory.mktemp('checkpoint') / 'wide.pth')


@pytest.fixture(scope='module')
def label_file(wide_config, wide_checkpoint, tmp_path_factory):
    """Pixels to labels; the head's convolution and those of the last stage are by tiles."""
    folder = tmp_path_factory.mktemp('tiles')
    wide_config.dump(folder / 'config.py')
    path = folder / 'labels.onnx'
    words = [str(folder / 'config.py'), str(wide_checkpoint), '--out', str(path), '--normalize']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, 'FEWEST_CHANNELS', 64)
        assert main(['export', *words, '--output', 'labels', '--winograd']) == 0
    return path


def in_onnxruntime(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(None, {'image': images})[0]


def in_openvino(path, images):
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    return openvino.Core().compile_model(path, 'CPU', exact)(images)[0]


@pytest.mark.parametrize('run', [in_onnxruntime, in_openvino])
@pytest.mark.parametrize(('size', 'batch'), [((250, 330), 1), ((161, 203), 3), ((40, 56), 2)])
def test_labels_are_those_of_mmseg(wide_config, wide_checkpoint, label_file, run, size, batch):
    images = pixels(size, batch)
    labels = run(label_file, as_input(images))
    expected = stock_labels(wide_config, wide_checkpoint, images)
    assert labels.shape == expected.shape
    assert len(np.unique(expected)) >= 3
    assert (labels == expected).mean() >= 0.999


def test_the_file_has_no_convolution_that_is_computed_by_tiles(label_file):
    graph = onnx.load(label_file).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    convolved = [shapes.get(node.input[1], ()) for node in graph.node if node.op_type == 'Conv']
    assert (64, 32, 3, 3) in convolved  # too few channels go in
    assert (64, 64, 3, 3) not in convolved
    assert (64, 128, 3, 3) not in convolved


@pytest.mark.parametrize('less', [{'dtype': 'float16'}, {'int8': True}], ids=str)
def test_less_than_float32_is_refused(less):
    with pytest.raises(ExportError, match='winograd is for float32'):
        ExportSettings(winograd=True, **less)
