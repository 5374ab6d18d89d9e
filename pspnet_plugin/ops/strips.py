"""Bilinear upsampling in strips of rows, for maps whose full-size version is too large to hold.

Bilinear resizing is separable and linear: two small matrices hold the weights of input rows in each
output row, and of input columns in each output column. The columns are upsampled first, once; each
strip of output rows is then one matrix product with the few input rows that it reads. The gradient
goes back through the transposed matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The size of a strip of logits. On a CPU it should stay in the cache between operations, and yet be
# large beside the cost of waking the threads; a GPU wants few, large kernels.
STRIP_BYTES = {'cpu': 8 * 2**20, 'cuda': 64 * 2**20}


class Strip(NamedTuple):
    """A part of the output rows, as sums of input rows."""

    rows: slice  # of the output
    sources: slice  # of the input: all that these output rows read
    weights: Tensor  # (rows, sources)


def resize_operator(source: int, target: int, align_corners: bool, like: Tensor) -> Tensor:
    """The matrix (target, source) of a bilinear resize along one axis.

    Its entries are PyTorch's own weights, in the dtype and on the device of ``like``.
    """
    identity = torch.eye(source, dtype=like.dtype, device=like.device)
    return resize_again(identity, target, align_corners)


def resize_again(operator: Tensor, target: int, align_corners: bool) -> Tensor:
    """Append a bilinear resize to ``operator`` (length, source): the matrix (target, source)."""
    length, source = operator.shape
    image = operator.t().reshape(1, source, 1, length)
    image = F.interpolate(image, size=(1, target), mode='bilinear', align_corners=align_corners)
    return image.view(source, target).t()


def split_rows(operator: Tensor, row_bytes: int) -> list[Strip]:
    """Cut the output rows of ``operator`` (target, source) into strips.

    Args:
        row_bytes: the size of one output row; see ``STRIP_BYTES``.
    """
    touched = operator.cpu() != 0
    sources = torch.arange(operator.shape[1]).expand_as(touched)
    first = sources.masked_fill(~touched, operator.shape[1]).amin(1).tolist()
    end = (sources + 1).masked_fill(~touched, 0).amax(1).tolist()
    budget = STRIP_BYTES.get(operator.device.type, STRIP_BYTES['cuda'])
    height = max(1, budget // row_bytes)
    strips = []
    for top in range(0, operator.shape[0], height):
        rows = slice(top, min(top + height, operator.shape[0]))
        read = slice(min(first[rows]), max(end[rows]))
        strips.append(Strip(rows, read, operator[rows, read]))
    return strips


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
