"""3 x 3 convolution with 16 multiplications for four outputs, where the direct sum takes 36.

Winograd's minimal filtering F(2 x 2, 3 x 3) gets two outputs of a line from four products of sums
of inputs with sums of weights, and does so along both axes: with the three matrices below, a tile d
of 4 x 4 inputs and a kernel g give the 2 x 2 outputs

    A^T [ sum over channels of (G g G^T) * (B^T d B) ] A

where * multiplies elementwise, so that the sum is 16 products of matrices of tiles and channels.

    B^T = 1  0 -1  0      G =  1    0    0      A^T = 1  1  1  0
          0  1  1  0          1/2  1/2  1/2           0  1 -1 -1
          0 -1  1  0          1/2 -1/2  1/2
          0  1  0 -1           0    0    1

It is the same sum in another order; of all such schemes this one rounds least. Source: Lavin and
Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308. cuDNN chooses it by
itself; on CPUs PyTorch computes the direct sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

G = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
# As many tiles as make matrix products fast, and few enough for their numbers to stay in the cache.
# A product over 256 channels, added to the next one's, also rounds less than one over all.
TILES_AT_ONCE, CHANNELS_AT_ONCE = 512, 256
# Below either of these the sums over tiles and kernels cost more time than they save.
FEWEST_CHANNELS, FEWEST_PIXELS = 256, 512


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`conv2d_3x3` can convolve x, and faster than PyTorch."""
    return (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= FEWEST_CHANNELS
        and x.shape[2] * x.shape[3] >= FEWEST_PIXELS
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
    """Keeps x and the weight for the backward pass, and nothing that was made of them."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return _convolve(x, weight)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            # A sum over the few output channels: tiles save no time there and round more.
            of_x = torch.nn.grad.conv2d_input(x.shape, weight, grad, padding=1)
        if ctx.needs_input_grad[1] and torch.is_grad_enabled():  # to be differentiated again
            of_weight = torch.nn.grad.conv2d_weight(x, weight.shape, grad, padding=1)
        elif ctx.needs_input_grad[1]:
            of_weight = _gradient_of_weight(x, grad)
        return of_x, of_weight


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    kernels = _transform_kernels(weight).split(CHANNELS_AT_ONCE, 2)
    memory_format = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    shape = x.shape[0], weight.shape[0], *x.shape[2:]
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
    columns = (x.shape[3] + 1) // 2
    for picture, target in zip(x.split(1), out.split(1)):
        for rows in _strips(picture):
            tiles, sums = _empty_tiles(x, weight.shape[0], len(rows), columns)
            sums.zero_()
            for part, kernel in zip(picture.split(CHANNELS_AT_ONCE, 1), kernels):
                _add_product(sums, kernel, _transform_input(part, rows))
            _transform_output(tiles, target[:, :, 2 * rows.start : 2 * rows.stop])
    return out


def _gradient_of_weight(x: Tensor, grad: Tensor) -> Tensor:
    out = x.new_empty(grad.shape[1], 9, x.shape[1])
    at_once = 2 * CHANNELS_AT_ONCE
    for part, target in zip(x.split(at_once, 1), out.split(at_once, 2)):
        sums = x.new_zeros(16, grad.shape[1], part.shape[1])
        for picture, its_grad in zip(part.split(1), grad.split(1)):
            for rows in _strips(picture):
                # Made anew for each group of channels: all of them take four times the gradient.
                strip = its_grad[:, :, 2 * rows.start : 2 * rows.stop]
                of_outputs = _transform_gradient(strip, like=x)
                sums.baddbmm_(of_outputs, _transform_input(picture, rows).mT)
        target.copy_(_transform_kernels_back(sums))
    return out.mT.unflatten(2, (3, 3))


def _strips(x: Tensor) -> list[range]:
    """Rows of tiles to work on at once."""
    rows, columns = ((size + 1) // 2 for size in x.shape[2:])
    step = max(1, TILES_AT_ONCE // columns)
    return [range(rows)[row : row + step] for row in range(0, rows, step)]


# --- tiles: (4, 4, C, rows, columns), in memory like the map that they are made of ---------------


def _empty_tiles(x: Tensor, channels: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Memory for tiles, and the same memory as 16 matrices (C, tiles), with zeros at their end.

    Where the channels are not last, a line of a matrix is a channel's tiles; matrix products are
    a third faster where these are a multiple of the numbers that a processor multiplies at once.
    """
    count = rows * columns
    if _is_channels_last(x):
        tiles = x.new_empty(4, 4, rows, columns, channels)
        return tiles.movedim(-1, -3), tiles.view(16, count, channels).mT
    matrices = x.new_empty(16, channels, (count + 15) // 16 * 16)
    matrices[..., count:].zero_()
    tiles = matrices[..., :count].unflatten(2, (rows, columns)).unflatten(0, (4, 4))
    return tiles, matrices


def _add_product(sums: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the products of 16 matrices; the faster way to do so wants the sums contiguous."""
    if sums.is_contiguous():
        sums.baddbmm_(a, b)
    else:
        sums.mT.baddbmm_(b.mT, a.mT)


def _transform_input(x: Tensor, rows: range) -> Tensor:
    """B^T d B for the tiles d of some rows of (1, C, H, W), as matrices."""
    channels, height, width = x.shape[1:]
    columns = (width + 1) // 2
    top, bottom = 2 * rows.start - 1, 2 * rows.stop + 1
    borders = (1, 2 * columns + 1 - width, max(-top, 0), max(bottom - height, 0))
    part = F.pad(x[:, :, max(top, 0) : bottom], borders)[0]
    even, odd = part[..., 0::2], part[..., 1::2]
    if not _is_channels_last(x):
        even, odd = even.contiguous(), odd.contiguous()  # what is read side by side, lies so
    lines = _empty_lines(x, channels, bottom - top, columns)
    _combine_inputs(even, odd, -1, lines)
    tiles, matrices = _empty_tiles(x, channels, len(rows), columns)
    _combine_inputs(lines[..., 0::2, :], lines[..., 1::2, :], -2, tiles)
    return matrices


def _empty_lines(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Memory for four maps, (4, C, height, width)."""
    if _is_channels_last(x):
        return x.new_empty(4, height, width, channels).movedim(-1, -3)
    return x.new_empty(4, channels, height, width)


def _combine_inputs(even: Tensor, odd: Tensor, dim: int, out: Tensor) -> None:
    """B^T along one dimension of a map whose every second line is in ``even``."""
    count = even.shape[dim] - 1
    first, third = even.narrow(dim, 0, count), even.narrow(dim, 1, count)
    second, fourth = odd.narrow(dim, 0, count), odd.narrow(dim, 1, count)
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(second, fourth, out=out[3])


def _transform_output(sums: Tensor, out: Tensor) -> None:
    """A^T m A, cut to the rows and columns that ``out`` has."""
    for row, lines in enumerate(_combine_sums(sums)):
        for column, pixels in enumerate(_combine_sums(lines)):
            target = out[0, :, row::2, column::2]
            target.copy_(pixels[:, : target.shape[1], : target.shape[2]])


def _combine_sums(m: Tensor) -> tuple[Tensor, Tensor]:
    """A^T along the first dimension."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def _transform_gradient(grad: Tensor, like: Tensor) -> Tensor:
    """A y A^T for the 2 x 2 gradients y of (1, O, H, W), as matrices like those of the input."""
    channels, height, width = grad.shape[1:]
    part = F.pad(grad, (0, width % 2, 0, height % 2))[0]
    rows, columns = part.shape[1] // 2, part.shape[2] // 2
    lines = _empty_lines(grad, channels, rows, 2 * columns)
    _combine_gradients(part[:, 0::2], part[:, 1::2], lines)
    tiles, matrices = _empty_tiles(like, channels, rows, columns)
    _combine_gradients(lines[..., 0::2], lines[..., 1::2], tiles.transpose(0, 1))
    return matrices


def _combine_gradients(even: Tensor, odd: Tensor, out: Tensor) -> None:
    """A along one dimension."""
    out[0].copy_(even)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.neg(odd, out=out[3])


def _transform_kernels(weight: Tensor) -> Tensor:
    """G g G^T of (O, C, 3, 3), as 16 matrices (O, C)."""
    transform = _kernel_transform(weight).expand(weight.shape[0], 16, 9)
    return torch.bmm(transform, weight.flatten(2).mT).transpose(0, 1)


def _transform_kernels_back(matrices: Tensor) -> Tensor:
    """G^T k G of 16 matrices (O, C), as (O, 9, C)."""
    transform = _kernel_transform(matrices).mT.expand(matrices.shape[1], 9, 16)
    return torch.bmm(transform, matrices.transpose(0, 1))


def _kernel_transform(like: Tensor) -> Tensor:
    """G along both axes, (16, 9)."""
    return torch.kron(like.new_tensor(G), like.new_tensor(G))


def _is_channels_last(x: Tensor) -> bool:
    """Also of some channels or rows of a map."""
    return x.stride(-3) == 1 != x.stride(-1)
