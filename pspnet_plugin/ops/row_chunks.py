"""Bilinear upsampling a few rows at a time, for maps that are too large to hold at full size.

Bilinear resizing is linear, along rows and columns separately: two small matrices hold the weights
of input rows in each output row, and of input columns in each output column. The columns are
upsampled first, once; each chunk of output rows is then one matrix product with the few input rows
that it reads. The gradient goes back through the transposed matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The size of a chunk of logits. On a CPU it should stay in the cache between operations, and yet be
# large beside the cost of waking the threads; a GPU wants few, large kernels.
CHUNK_BYTES = {'cpu': 8 * 2**20, 'cuda': 64 * 2**20}


class RowChunk(NamedTuple):
    """A part of the output rows, as sums of input rows."""

    rows: slice  # of the output
    sources: slice  # of the input: all that these output rows read
    weights: Tensor | None  # (rows, sources); None where the rows are these sources

    @property
    def height(self) -> int:
        """How many rows there are."""
        return self.rows.stop - self.rows.start

    def upsample(self, wide: Tensor, buffer: Tensor | None = None) -> Tensor:
        """The output rows, (R, L), of the input (h, L), in the memory of ``buffer`` if given."""
        out = None if buffer is None else buffer[: self.height]
        if self.weights is not None:
            return torch.mm(self.weights, wide[self.sources], out=out)
        return wide[self.sources].clone() if out is None else out.copy_(wide[self.sources])

    def add_gradient(self, gradient: Tensor, wide_gradient: Tensor) -> None:
        """Add the gradient of the output rows, (R, L), to that of the input, (h, L)."""
        if self.weights is None:
            wide_gradient[self.sources] += gradient
        else:
            wide_gradient[self.sources].addmm_(self.weights.t(), gradient)


def is_identity(matrix: Tensor) -> bool:
    """Whether a resize with this matrix, on the CPU, leaves everything as it is."""
    rows, columns = matrix.shape
    return rows == columns and torch.equal(matrix, torch.eye(rows, dtype=matrix.dtype))


def resize_matrix(source: int, target: int, align_corners: bool, dtype: torch.dtype) -> Tensor:
    """The matrix (target, source) of a bilinear resize along one axis, on the CPU.

    Its entries are PyTorch's own weights. On the CPU, because which of them are zero decides what
    is computed, and asking another device would wait for it.
    """
    return resize_again(torch.eye(source, dtype=dtype), target, align_corners)


def resize_again(matrix: Tensor, target: int, align_corners: bool) -> Tensor:
    """Append a bilinear resize to ``matrix`` (length, source): the matrix (target, source)."""
    length, source = matrix.shape
    image = matrix.t().reshape(1, source, 1, length)
    image = F.interpolate(image, size=(1, target), mode='bilinear', align_corners=align_corners)
    return image.view(source, target).t()


def split_rows(matrix: Tensor, row_bytes: int, device: torch.device) -> list[RowChunk]:
    """Cut the output rows of ``matrix`` (target, source) into chunks of about ``CHUNK_BYTES``.

    Args:
        matrix: on the CPU, see :func:`resize_matrix`.
        row_bytes: the size of one output row.
        device: where the rows are computed.
    """
    touched = matrix != 0
    sources = torch.arange(matrix.shape[1]).expand_as(touched)
    first = sources.masked_fill(~touched, matrix.shape[1]).amin(1).tolist()
    end = (sources + 1).masked_fill(~touched, 0).amax(1).tolist()
    is_needed = not is_identity(matrix)
    budget = CHUNK_BYTES.get(device.type, CHUNK_BYTES['cuda'])
    matrix = matrix.to(device)
    height = max(1, budget // row_bytes)
    chunks = []
    for top in range(0, matrix.shape[0], height):
        rows = slice(top, min(top + height, matrix.shape[0]))
        read = slice(min(first[rows]), max(end[rows]))
        chunks.append(RowChunk(rows, read, matrix[rows, read] if is_needed else None))
    return chunks


def upsample_columns(logits: Tensor, columns: Tensor | None) -> Tensor:
    """Resize one map (C, h, w) to W columns by the matrix ``columns``, (W, w): (h, C * W).

    Without a matrix the columns stay.

    Rows come first in the result, so that mixing rows is one plain matrix product.
    """
    channels, height, width = logits.shape
    by_row = logits.transpose(0, 1).reshape(height * channels, width)
    return (by_row if columns is None else by_row @ columns.t()).view(height, -1)


def upsample_columns_backward(gradient: Tensor, columns: Tensor | None, width: int) -> Tensor:
    """The transpose of :func:`upsample_columns`: (h, C * W) back to (C, h, w)."""
    height = gradient.shape[0]
    by_row = gradient if columns is None else gradient.view(-1, columns.shape[0]) @ columns
    return by_row.view(height, -1, width).transpose(0, 1)
