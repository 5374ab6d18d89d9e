"""3 x 3 convolution with 16 multiplications for four outputs, where the direct sum takes 36.

Winograd's minimal filtering F(2 x 2, 3 x 3) gets two outputs of a line from four products of sums
of inputs with sums of weights, and does so along both axes: with the three matrices below, a tile d
of 4 x 4 inputs and a kernel g give the 2 x 2 outputs

    A^T [ sum over channels of (G g G^T) * (B^T d B) ] A

where * multiplies elementwise. For all tiles and output channels at once, the sum over channels is
16 matrix products, one for each of the 4 x 4 positions.

    B^T = 1  0 -1  0      G =  1    0    0      A^T = 1  1  1  0
          0  1  1  0          1/2  1/2  1/2           0  1 -1 -1
          0 -1  1  0          1/2 -1/2  1/2
          0  1  0 -1           0    0    1

It is the same sum in another order; of all tile sizes this one has the smallest rounding errors.
Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308. On GPUs
cuDNN chooses it by itself; on CPUs PyTorch computes the direct sum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from .memory_format import is_channels_last

G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
# Enough tiles for fast matrix products, and few enough to stay in the cache. Partial sums over 256
# channels also have smaller rounding errors than one sum over all of them.
TILES_AT_ONCE, CHANNELS_AT_ONCE = 512, 256
# With fewer channels or pixels, the additions cost more time than the multiplications they save;
# docs/performance.md has measurements. A choice by the clock would not be reproducible.
FEWEST_CHANNELS, FEWEST_PIXELS = 256, 1024
MANY_CHANNELS = 1024  # that go in: half as many pixels are enough then
# Matrix products are about a third faster where rows hold a multiple of 16 numbers (vector widths).
ROW_MULTIPLE = 16


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`conv2d_3x3` takes these shapes and is faster than PyTorch on them."""
    fewest = FEWEST_PIXELS if weight.shape[1] < MANY_CHANNELS else FEWEST_PIXELS // 2
    return (
        len(x) > 0
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= FEWEST_CHANNELS
        and x.shape[2] * x.shape[3] >= fewest
    )


def conv2d_3x3(x: Tensor, weight: Tensor) -> Tensor:
    """``F.conv2d(x, weight, padding=1)`` of 3 x 3 kernels, in float32 or float64 on a CPU.

    Args:
        x: (N, C, H, W), contiguous or channels-last.
        weight: (O, C, 3, 3).

    Returns:
        (N, O, H, W), in the memory format of x.
    """
    return _Convolution.apply(x, weight)


class _Convolution(torch.autograd.Function):
    """Saves x and the weight alone for the backward pass, which makes the tiles again."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return _convolve(x, _transform_kernels(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _grad_x(x, weight, grad)
        if ctx.needs_input_grad[1] and torch.is_grad_enabled():  # create_graph=True
            grad_weight = conv2d_weight(x, weight.shape, grad, padding=1)
        elif ctx.needs_input_grad[1]:
            grad_weight = _grad_weight(x, grad)
        return grad_x, grad_weight


def _convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """(N, C, H, W), with kernels (16, O, C), to (N, O, H, W), a few rows of tiles at a time."""
    outputs, parts = kernels.shape[1], kernels.split(CHANNELS_AT_ONCE, 2)
    memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    shape = x.shape[0], outputs, *x.shape[2:]
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
    columns = (x.shape[3] + 1) // 2
    for image, target in zip(x.split(1), out.split(1)):
        for rows in _tile_rows(image):
            tiles, sums = _empty_tiles(x, outputs, len(rows), columns)
            for i, (part, kernel) in enumerate(zip(image.split(CHANNELS_AT_ONCE, 1), parts)):
                _add_product(sums, kernel, _transform_input(part, rows), first=i == 0)
            _transform_output(tiles, target[:, :, 2 * rows.start : 2 * rows.stop])
    return out


def _grad_x(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x: the convolution of that of the output with the transposed kernel."""
    if torch.is_grad_enabled() or not pays(grad, weight.transpose(0, 1)):
        return conv2d_input(x.shape, weight, grad, padding=1)
    return _convolve(grad, _transform_kernels(weight, turned=True).mT)


def _grad_weight(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the weight, (O, C, 3, 3), from that of the output, (N, O, H, W)."""
    out = x.new_empty(grad.shape[1], 9, x.shape[1])
    at_once = 2 * CHANNELS_AT_ONCE
    for part, target in zip(x.split(at_once, 1), out.split(at_once, 2)):
        sums = x.new_zeros(16, grad.shape[1], part.shape[1])
        for image, image_grad in zip(part.split(1), grad.split(1)):
            for rows in _tile_rows(image):
                # The gradient's tiles, four times its size, are not kept for the next channels.
                pixels = image_grad[:, :, 2 * rows.start : 2 * rows.stop]
                grad_tiles = _transform_gradient(pixels, like=x)
                sums.baddbmm_(grad_tiles, _transform_input(image, rows).mT)
        target.copy_(_transform_kernels_back(sums))
    return out.mT.unflatten(2, (3, 3))


def _tile_rows(x: Tensor) -> list[range]:
    """The rows of tiles of a map, about ``TILES_AT_ONCE`` tiles at a time."""
    rows, columns = ((size + 1) // 2 for size in x.shape[2:])
    step = max(1, TILES_AT_ONCE // columns)
    return [range(rows)[row : row + step] for row in range(0, rows, step)]


# --- tiles: (4, 4, C, rows, columns), in the memory format of the map that they are made of ------


def _empty_tiles(x: Tensor, channels: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Uninitialized tiles, and the same memory as 16 matrices (C, tiles).

    Those of a contiguous map have more columns than there are tiles, see ``ROW_MULTIPLE``; the
    columns that are added hold zeros.
    """
    count = rows * columns
    if is_channels_last(x):
        tiles = x.new_empty(4, 4, rows, columns, channels)
        return tiles.movedim(-1, -3), tiles.view(16, count, channels).mT
    matrices = x.new_empty(16, channels, -(-count // ROW_MULTIPLE) * ROW_MULTIPLE)
    matrices[..., count:].zero_()
    tiles = matrices[..., :count].unflatten(2, (rows, columns)).unflatten(0, (4, 4))
    return tiles, matrices


def _add_product(sums: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """Add 16 products (O, C) @ (C, tiles) to ``sums``, (16, O, tiles), any axis innermost.

    The ``first`` ones take the place of whatever ``sums`` held.
    """
    # Products are fastest where they are written to contiguous memory: else all are transposed.
    if not sums.is_contiguous():
        sums, a, b = sums.mT, b.mT, a.mT
    if first:
        torch.bmm(a, b, out=sums)  # baddbmm_(beta=0) of torch 2.0 keeps NaNs of memory never set
    else:
        sums.baddbmm_(a, b)


def _transform_input(x: Tensor, rows: range) -> Tensor:
    """B^T d B of the tiles d in some rows of (1, C, H, W), as 16 matrices (C, tiles)."""
    channels, height, width = x.shape[1:]
    columns = (width + 1) // 2
    top, bottom = 2 * rows.start - 1, 2 * rows.stop + 1  # tiles overlap by two rows of pixels
    borders = (1, 2 * columns + 1 - width, max(-top, 0), max(bottom - height, 0))
    part = F.pad(x[:, :, max(top, 0) : bottom], borders)[0]
    even, odd = part[..., 0::2], part[..., 1::2]
    if not is_channels_last(x):
        # Every second column of x, read several times: the sums are vectorized without the gaps.
        even, odd = even.contiguous(), odd.contiguous()
    lines = _empty_lines(x, channels, bottom - top, columns)
    _combine_inputs(even, odd, -1, lines)
    tiles, matrices = _empty_tiles(x, channels, len(rows), columns)
    _combine_inputs(lines[..., 0::2, :], lines[..., 1::2, :], -2, tiles)
    return matrices


def _empty_lines(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Four uninitialized maps, (4, C, height, width), in the memory format of x."""
    if is_channels_last(x):
        return x.new_empty(4, height, width, channels).movedim(-1, -3)
    return x.new_empty(4, channels, height, width)


def _combine_inputs(even: Tensor, odd: Tensor, dim: int, out: Tensor) -> None:
    """B^T along one dimension of a map, given as its even and its odd rows or columns."""
    count = even.shape[dim] - 1
    first, third = even.narrow(dim, 0, count), even.narrow(dim, 1, count)
    second, fourth = odd.narrow(dim, 0, count), odd.narrow(dim, 1, count)
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])


def _transform_output(sums: Tensor, out: Tensor) -> None:
    """A^T m A of the tiles m, cut to the rows and columns of ``out``, (1, O, H, W)."""
    for row, lines in enumerate(_combine_sums(sums)):
        for column, pixels in enumerate(_combine_sums(lines)):
            target = out[0, :, row::2, column::2]
            target.copy_(pixels[:, : target.shape[1], : target.shape[2]])


def _combine_sums(m: Tensor) -> tuple[Tensor, Tensor]:
    """A^T along the first dimension: (4, ...) to two of (...)."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _transform_gradient(grad: Tensor, like: Tensor) -> Tensor:
    """A y A^T of the 2 x 2 gradients y in (1, O, H, W), as 16 matrices (O, tiles).

    Their memory format is that of the map ``like``, whose matrices they are multiplied with.
    """
    channels, height, width = grad.shape[1:]
    part = F.pad(grad, (0, width % 2, 0, height % 2))[0]
    rows, columns = part.shape[1] // 2, part.shape[2] // 2
    lines = _empty_lines(grad, channels, rows, 2 * columns)
    _combine_gradients(part[:, 0::2], part[:, 1::2], lines)
    tiles, matrices = _empty_tiles(like, channels, rows, columns)
    _combine_gradients(lines[..., 0::2], lines[..., 1::2], tiles.transpose(0, 1))
    return matrices


def _combine_gradients(even: Tensor, odd: Tensor, out: Tensor) -> None:
    """A along one dimension of a map, given as its even and its odd rows or columns."""
    out[0].copy_(even)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.neg(odd, out=out[3])


def _transform_kernels(weight: Tensor, turned: bool = False) -> Tensor:
    """G g G^T of (O, C, 3, 3), as 16 matrices (O, C); also of kernels ``turned`` by half a turn."""
    transform = _kernel_transform(weight)
    if turned:
        transform = transform.flip(1)
    return torch.bmm(transform.expand(weight.shape[0], 16, 9), weight.flatten(2).mT).transpose(0, 1)


def _transform_kernels_back(matrices: Tensor) -> Tensor:
    """G^T k G of 16 matrices (O, C), as (O, 9, C)."""
    transform = _kernel_transform(matrices).mT.expand(matrices.shape[1], 9, 16)
    return torch.bmm(transform, matrices.transpose(0, 1))


def _kernel_transform(like: Tensor) -> Tensor:
    """G along both axes of a kernel, (16, 9)."""
    return torch.kron(like.new_tensor(G), like.new_tensor(G))
