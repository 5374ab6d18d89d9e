"""How a map lies in memory, and products with it that keep its memory format."""

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


def spatial_dims(channels_last: bool) -> tuple[int, int]:
    """The dimensions of height (2) and width (3), first the one along which products are faster.

    That is the second innermost dimension in memory: the height of a contiguous map, the width of a
    channels-last one. A large map is multiplied along it, so that the other product is a small one.
    """
    return (3, 2) if channels_last else (2, 3)


def multiply(matrix: Tensor, x: Tensor, dim: int, channels_last: bool) -> Tensor:
    """Apply a matrix to every column (dim 2) or row (dim 3) of a map, in the map's memory format.

    Args:
        matrix: (M, K).
        x: (N, C, H, W), with K entries along ``dim``.

    Returns:
        x with M entries along ``dim``.
    """
    if not channels_last:
        return matrix @ x if dim == 2 else x @ matrix.T
    x = x.permute(0, 2, 3, 1)
    if dim == 3:
        x = matrix @ x
    else:
        # Not unflatten(), which torch 2.0 cannot write as ONNX.
        x = (matrix @ x.flatten(2)).reshape(x.shape[0], matrix.shape[0], *x.shape[2:])
    return x.permute(0, 3, 1, 2)
