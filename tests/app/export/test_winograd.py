"""Convolutions by tiles are torch's, alone and within files, and other convolutions stay."""

import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pspnet_plugin.app.export import winograd
from pspnet_plugin.app.export.network import Replaced


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


def test_the_file_has_no_convolution_that_is_computed_by_tiles(files):
    graph = onnx.load(files('winograd').path).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    convolved = [shapes.get(node.input[1], ()) for node in graph.node if node.op_type == 'Conv']
    assert (64, 32, 3, 3) in convolved  # too few channels go in
    assert (64, 64, 3, 3) not in convolved
    assert (64, 128, 3, 3) not in convolved
