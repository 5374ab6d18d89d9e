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
    weights: Tensor  # (rows, sources)


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
    budget = CHUNK_BYTES.get(device.type, CHUNK_BYTES['cuda'])
    matrix = matrix.to(device)
    height = max(1, budget // row_bytes)
    chunks = []
    for top in range(0, matrix.shape[0], height):
        rows = slice(top, min(top + height, matrix.shape[0]))
        read = slice(min(first[rows]), max(end[rows]))
        chunks.append(RowChunk(rows, read, matrix[rows, read]))
    return chunks


def upsample_columns(logits: Tensor, columns: Tensor) -> Tensor:
    """Resize one map (C, h, w) to W columns by the matrix ``columns``, (W, w): (h, C * W).

    Rows come first in the result, so that mixing rows is one plain matrix product.
    """
    channels, height, width = logits.shape
    by_row = logits.transpose(0, 1).reshape(height * channels, width)
    return (by_row @ columns.t()).view(height, channels * columns.shape[0])


def upsample_columns_backward(gradient: Tensor, columns: Tensor) -> Tensor:
    """The transpose of :func:`upsample_columns`: (h, C * W) back to (C, h, w)."""
    height = gradient.shape[0]
    by_row = gradient.view(-1, columns.shape[0]) @ columns
    return by_row.view(height, -1, columns.shape[1]).transpose(0, 1)
