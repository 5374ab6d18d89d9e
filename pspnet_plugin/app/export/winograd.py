"""3 x 3 convolutions as matrix products, with 36 multiplications for 16 outputs in place of 144.

Winograd's minimal filtering F(4 x 4, 3 x 3): a tile d of 6 x 6 inputs and a kernel g give the 4 x 4
outputs

    A^T [ sum over channels of (G g G^T) * (B^T d B) ] A

where * multiplies elementwise. The sum over channels is one matrix product for each of the 36
positions in a tile. ``B^T d B`` of all tiles is a product of the map with a matrix for its rows and
one for its columns, and so is ``A^T m A``; they depend on the sizes alone, and the file computes
them for whatever image it gets. Runtimes compute ``G g G^T`` once, when they read the file.

:mod:`..ops.winograd` has the smaller tiles that the plugin trains with, whose rounding errors are a
tenth of these. Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks,
arXiv:1509.09308.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

OUTPUTS = 4  # of a tile, along each axis
B_T = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
A = ((1, 0, 0, 0), (1, 1, 1, 1), (1, -1, 1, -1), (1, 2, 4, 8), (1, -2, 4, -8), (0, 0, 0, 1))
# With fewer, in or out, the two changes of form take more time than the sum over channels saves.
FEWEST_CHANNELS = 512


def convolved(
    stock: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.conv2d``, by tiles where the kernel is 3 x 3 and the map keeps its size."""
    keeps_size = _pair(stride) == (1, 1) and _pair(padding) == _pair(dilation)
    is_square = weight.shape[2:] == (3, 3) and len(set(_pair(dilation))) == 1
    if not keeps_size or not is_square or groups > 1 or min(weight.shape[:2]) < FEWEST_CHANNELS:
        return stock(input, weight, bias, stride, padding, dilation, groups)
    out = conv2d_by_tiles(input, weight, _pair(dilation)[0])
    return out if bias is None else out + bias[:, None, None]


def conv2d_by_tiles(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Convolve (N, C, H, W) by (O, C, 3, 3) with zero padding that keeps the map's size."""
    n, c, height, width = x.shape
    o, t = weight.shape[0], len(B_T)
    g = torch.tensor(G, dtype=torch.float64)
    g = torch.kron(g, g).to(x)  # (t * t, 9)
    kernels = g @ weight.reshape(o * c, 9).T  # (t * t, o * c)
    kernels = kernels.reshape(t**2, o, c)
    # B^T d B
    rows, columns = (line_operator(B_T, size, dilation, -dilation, x) for size in (height, width))
    tiles = rows[:, None] @ x[:, None]  # (n, t, c, down, width)
    down, across = rows.shape[1], columns.shape[1]  # tiles
    tiles = tiles.reshape(n, t, 1, c * down, width)
    tiles = tiles @ columns.transpose(1, 2)  # (n, t, t, c * down, across)
    tiles = tiles.reshape(n, t**2, c, down * across)
    # The sum over channels
    sums = kernels @ tiles  # (n, t * t, o, down * across)
    sums = sums.reshape(n, t, t, o * down, across)
    sums = sums.transpose(2, 3)  # (n, t, o * down, t, across)
    # A^T m A
    rows, columns = (line_operator(A, size, dilation, 0, x) for size in (height, width))
    sums = sums.reshape(n, t, o * down, t * across)
    lines = sums @ columns.flatten(0, 1)  # (n, t, o * down, width)
    lines = lines.reshape(n, t, o, down, width)
    lines = lines.transpose(1, 2)  # (n, o, t, down, width)
    rows = rows.flatten(0, 1).T  # (height, t * down)
    return rows @ lines.reshape(n, o, t * down, width)  # (n, o, height, width)


def line_operator(
    table: tuple[tuple[float, ...], ...], size: int, dilation: int, first: int, like: Tensor
) -> Tensor:
    """The coefficients of a line of pixels at each position of its tiles.

    With a dilation of d the pixels of a tile are d apart, and d tiles lie in one another.

    Args:
        table: a line of coefficients for each position.
        first: the pixel of the first coefficient, relative to the first output of a tile.

    Returns:
        (positions, tiles, size).
    """
    coefficients = like.new_tensor(table)
    span = OUTPUTS * dilation
    tile = torch.arange((size + span - 1) // span * dilation, device=like.device)[:, None]
    start = tile // dilation * span + tile % dilation + first
    distance = torch.arange(size, device=like.device) - start
    index = torch.div(distance, dilation, rounding_mode='floor')
    count = coefficients.shape[1]
    inside = (distance % dilation == 0) & (index >= 0) & (index < count)
    return coefficients[:, index.clamp(0, count - 1)] * inside
