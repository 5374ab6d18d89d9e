"""Bounds of sizes are worked out once while a network is exported, and stay PyTorch's."""

from unittest import mock

import pytest
import sympy
from torch.utils._sympy import value_ranges
from torch.utils._sympy.functions import FloorDiv
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

from pspnet_plugin.compat.shape_bounds import bounds_kept

height, width = sympy.symbols('height width', integer=True, positive=True)
SIZES = [
    FloorDiv(height - 1, 2) + 1,
    FloorDiv(FloorDiv(height - 1, 2), 2) * FloorDiv(width + 5, 32),
    sympy.Eq(FloorDiv(height, 8), 1),
    height * width - 3 * width,
]


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_bounds_are_those_of_pytorch_for_each_range_of_the_image(size):
    ranges = [
        {height: ValueRanges(low, low + 90), width: ValueRanges(2, 1000 * low)} for low in (1, 7, 8)
    ]
    expected = [bound_sympy(size, range) for range in ranges]
    with bounds_kept():
        assert [bound_sympy(size, range) for range in ranges * 2] == expected * 2


def test_bounds_of_one_size_are_worked_out_once_and_only_within_the_context():
    ranges = {height: ValueRanges(1, 90)}
    with mock.patch.object(value_ranges, 'sympy_interp', wraps=value_ranges.sympy_interp) as stock:
        with bounds_kept():
            for _ in range(3):
                bound_sympy(SIZES[0], ranges)
            assert stock.call_count == 1
        assert value_ranges.sympy_interp is stock
