"""Windows that overlap add up to what they are windows of."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pspnet_plugin.app.prediction.windows import predict_in_windows, windows_along

sides = st.integers(1, 70)


@st.composite
def windows(draw):
    size = draw(st.integers(5, 40))
    return size, draw(st.integers(0, size // 2))


def joined(blocks, like):
    """The blocks put together; every pixel has to come once."""
    result, times = torch.full_like(like, torch.nan), torch.zeros(like.shape[1:])
    for row, column, part in blocks:
        place = (slice(row, row + part.shape[1]), slice(column, column + part.shape[2]))
        result[(slice(None), *place)] = part
        times[place] += 1
    assert (times == 1).all()
    return result


@settings(deadline=None)
@given(sides, sides, windows())
def test_windows_that_agree_give_the_whole_and_each_pixel_once(height, width, sizes):
    whole = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    whole /= whole.sum(0)

    def cut(row, column, height, width):
        return whole[:, row : row + height, column : column + width].clone()

    result = joined(predict_in_windows((height, width), *sizes, cut), whole)
    torch.testing.assert_close(result, whole, atol=1e-5, rtol=0)


@given(sides, windows())
def test_each_window_counts_less_towards_its_border_and_all_together_once(length, sizes):
    windows = windows_along(length, *sizes)
    total = torch.zeros(length)
    for start, weights, shared in windows:
        total[start : start + len(weights)] += weights
        assert (weights > 0).all()
        assert shared >= sizes[1] or start == windows[-1].start
    torch.testing.assert_close(total, torch.ones(length))


@given(st.integers(1, 5000), st.sampled_from([(512, 128), (1024, 256), (768, 384), (256, 0)]))
def test_windows_start_where_the_strides_of_a_network_do(length, sizes):
    starts = [window.start for window in windows_along(length, *sizes)]
    assert starts == sorted(set(starts))
    assert all(start % 32 == 0 for start in starts[:-1])
    assert starts[-1] == max(length - sizes[0], 0)


def test_network_with_a_stride_predicts_in_windows_as_in_one_piece():
    image = torch.rand(2, 640, 576, generator=torch.Generator().manual_seed(0))

    def network(row, column, height, width):
        window = image[:, row : row + height, column : column + width]
        cells = torch.nn.functional.avg_pool2d(window, 32)
        return cells.repeat_interleave(32, dim=1).repeat_interleave(32, dim=2)

    whole = network(0, 0, 640, 576)
    found = joined(predict_in_windows((640, 576), 192, 64, network), whole)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)


def test_two_windows_that_disagree_pass_over_into_each_other():
    def one_or_the_other(row, column, height, width):
        value = torch.tensor([1.0, 0.0] if column == 0 else [0.0, 1.0])
        return value[:, None, None].repeat(1, height, width)

    assert [window.start for window in windows_along(48, 32, 16)] == [0, 16]
    blocks = predict_in_windows((1, 48), 32, 16, one_or_the_other)
    line = joined(blocks, torch.empty(2, 1, 48))[1, 0]
    steps = line.diff()
    assert line[0] == 0
    assert line[-1] == 1
    assert (steps >= 0).all()
    assert steps.max() < 0.1
