"""How a map lies in memory."""

from __future__ import annotations

from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a map (..., C, H, W) are adjacent in memory, not its columns.

    It reads the strides, so it also holds for some rows or channels of such a map, for which
    ``x.is_contiguous(memory_format=torch.channels_last)`` is False. A map with a single channel has
    both formats and counts as contiguous.
    """
    # The order matters: on a contiguous map the first comparison is one of numbers and ends it; the
    # second would make a compiler add a condition on the symbolic H * W.
    return x.stride(-1) != 1 and x.stride(-3) == 1
