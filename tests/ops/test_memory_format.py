"""The test for channels-last against PyTorch's own, and where it says more."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from pspnet_plugin.ops.memory_format import is_channels_last
from tests.helpers.maps import LAYOUTS, layouts, random_map


@given(shape=st.tuples(st.integers(1, 3), *[st.integers(2, 5)] * 3), layout=layouts)
def test_whole_maps_are_told_apart_as_pytorch_does(shape, layout):
    x = random_map(*shape, layout=layout)
    assert is_channels_last(x) == x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_a_part_of_a_map_is_as_the_map(layout):
    x = random_map(2, 6, 8, 8, layout=layout)
    for part in (x[:, 1:3], x[:, :, 2:5], x[0], x[..., ::2]):
        assert is_channels_last(part) == is_channels_last(x)


def test_a_single_channel_counts_as_contiguous():
    assert not is_channels_last(random_map(2, 1, 4, 4, layout=torch.channels_last))
