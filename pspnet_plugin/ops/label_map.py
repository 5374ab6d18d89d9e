"""From the logits of a decode head to the label map, a few rows at a time.

mmseg resizes the logits of all classes to the size of the network's input, crops the padding, flips
back, resizes again to the size of the original image, and takes ``argmax`` over the channels. All
of it but the ``argmax`` is linear, along rows and columns separately, so one matrix for the rows
and one for the columns do it, for one chunk of rows after the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import at_least_float32, may_be_finite, without_autocast
from .row_chunks import is_identity, resize_again, resize_matrix, split_rows, upsample_columns

# Far from the largest float32, so that sums of a few stay finite.
LARGEST_SCORE = 1e30


def label_map(
    logits: Tensor,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    flip_direction: str | None = None,
    align_corners: bool = False,
) -> Tensor:
    """The class with the highest score for each pixel of the original image.

    Args:
        logits: (C, h, w) of one image, as the head's ``forward`` returns them.
        input_size: height and width of the network's input, padding included.
        original_size: height and width of the result.
        padding: pixels of the input to crop: left, right, top, bottom.
        flip_direction: ``'horizontal'`` or ``'vertical'`` where the input was flipped.
        align_corners: of both resizes, as in ``F.interpolate``.

    Returns:
        (1, H, W), int64. The first class wins a tie.
    """
    classes, width = logits.shape[0], original_size[1]
    sides = zip(logits.shape[1:], input_size, original_size)
    matrices = sum(source * max(targets) for source, *targets in sides)
    full = classes * max(height * width for height, width in (input_size, original_size))
    # Of a long, narrow image all logits are smaller than the matrix of its long side.
    if matrices > full or not may_be_finite(logits):
        plain = (logits, input_size, original_size, padding, flip_direction, align_corners)
        return _label_map_of_full_logits(*plain)
    left, right, top, bottom = padding
    with without_autocast(logits):
        small = at_least_float32(logits)
        if small.device.type != 'cpu':  # nobody has asked what it holds, since that would wait
            small = bounded(small)
        rows = resize_matrix(small.shape[1], input_size[0], align_corners, small.dtype)
        columns = resize_matrix(small.shape[2], input_size[1], align_corners, small.dtype)
        rows = rows[top : input_size[0] - bottom]
        columns = columns[left : input_size[1] - right]
        rows = rows.flip(0) if flip_direction == 'vertical' else rows
        columns = columns.flip(0) if flip_direction == 'horizontal' else columns
        rows = resize_again(rows, original_size[0], align_corners)
        columns = resize_again(columns, original_size[1], align_corners)
        wide = upsample_columns(small, None if is_identity(columns) else columns.to(small.device))
        labels = torch.empty(1, *original_size, dtype=torch.int64, device=logits.device)
        row_bytes = classes * width * small.element_size()
        for chunk in split_rows(rows, row_bytes, small.device):
            scores = chunk.upsample(wide).view(-1, classes, width)
            labels[0, chunk.rows] = first_argmax(scores)
    return labels


def bounded(scores: Tensor) -> Tensor:
    """``scores`` with numbers in place of infinities, and the largest in place of NaN.

    A matrix product with a zero leaves them where they are; they win or lose against all others.
    """
    return scores.nan_to_num(nan=LARGEST_SCORE, posinf=LARGEST_SCORE, neginf=-LARGEST_SCORE)


def _label_map_of_full_logits(
    logits: Tensor,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_direction: str | None,
    align_corners: bool,
) -> Tensor:
    """As mmseg: PyTorch's own interpolation leaves infinities and NaN where they are."""
    left, right, top, bottom = padding
    with without_autocast(logits):
        small = at_least_float32(logits)[None]
        full = F.interpolate(small, input_size, None, 'bilinear', align_corners)
        full = full[..., top : input_size[0] - bottom, left : input_size[1] - right]
        if flip_direction is not None:
            full = full.flip(2 if flip_direction == 'vertical' else 3)
        full = F.interpolate(full, original_size, None, 'bilinear', align_corners)
    return full.argmax(1)


def first_argmax(scores: Tensor) -> Tensor:
    """``scores.argmax(1)`` of (R, C, W), as (R, W); overwrites the scores.

    On a CPU it is about ten times as fast: PyTorch's ``argmax`` over a dimension that is not the
    last visits one element at a time, but ``amax`` and elementwise operations are vectorized. The
    maxima are marked, the classes ranked from C down to 1; the highest marked rank is the first of
    the maxima.
    """
    classes = scores.shape[1]
    ranks = torch.arange(classes, 0, -1, dtype=scores.dtype, device=scores.device).view(1, -1, 1)
    marked = torch.eq(scores, scores.amax(1, keepdim=True), out=scores)
    # A pixel with a NaN has no maximum, thus rank 0, and is given the last class.
    return (classes - marked.mul_(ranks).amax(1).clamp_(min=1)).long()
