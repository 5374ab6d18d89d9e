"""Cross-entropy and pixel accuracy of upsampled logits that never exist at full size.

mmseg resizes the logits to the label's size, (N, C, H, W), and keeps them and their softmax for the
backward pass. Here one chunk of rows at a time is upsampled; its loss, accuracy and gradient are
computed, and the gradient is added to that of the small logits at once, so that the next chunk can
use the same memory. The method is that of chunked cross-entropies for language models, with
bilinear resizing as the linear map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from ..errors import PspnetPluginError
from .matrices import built_once
from .precision import at_least_float32, without_autocast
from .row_chunks import (
    RowChunk,
    is_identity,
    resize_matrix,
    split_rows,
    upsample_columns,
    upsample_columns_backward,
)


class LabelOutOfRangeError(PspnetPluginError, IndexError):
    """A label is neither a class of the head nor the ignored value."""


class ClassWeightError(PspnetPluginError, ValueError):
    """There is another number of class weights than of classes."""


class SecondDerivativeError(PspnetPluginError, RuntimeError):
    """The backward pass of the chunked cross-entropy ran with ``create_graph=True``."""


@torch._dynamo.disable  # One graph break in a compiled model instead of one for each chunk.
def chunked_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    class_weight: Sequence[float] | None = None,
    ignore_index: int = 255,
    avg_non_ignore: bool = False,
    reduction: str = 'mean',
    align_corners: bool = False,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy of ``logits`` resized bilinearly to the size of ``label``.

    The numbers are those of mmseg's ``resize``, ``CrossEntropyLoss`` and ``accuracy`` one after the
    other. An ignored value without a class weight, for which mmseg fails, has the weight zero.
    Half-precision logits are computed in float32.

    Args:
        logits: (N, C, h, w), C > 1.
        label: (N, H, W), integers in [0, C) or ``ignore_index``.
        class_weight: C factors of the classes' losses.
        ignore_index: the label of pixels without a loss.
        avg_non_ignore: whether the mean is over the pixels that are not ignored, not over all.
        reduction: ``'mean'``, weighted by ``class_weight``, or ``'sum'``.
        align_corners: of the resize, as in ``F.interpolate``.

    Returns:
        The loss, a scalar that can be differentiated once, and the accuracy, (1,): the percentage
        of correct pixels among those not ignored.

    Raises:
        ClassWeightError: there are not C class weights.
        LabelOutOfRangeError: a label that is not ignored is negative or not below C.
        SecondDerivativeError: in the backward pass, with ``create_graph=True``.
    """
    check_class_weight(class_weight, logits.shape[1])
    valid = label != ignore_index
    _check_labels(label, valid, logits.shape[1], ignore_index)
    weight = None
    if class_weight is not None:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        weight = torch.as_tensor(class_weight, dtype=dtype, device=logits.device)
    with torch.no_grad(), without_autocast(logits):
        total, correct, gradient = _accumulate(logits, label, weight, ignore_index, align_corners)
    total = _WithGradient.apply(logits, total, gradient)
    eps = torch.finfo(torch.float32).eps
    if reduction == 'mean':
        factor = _average_factor(label, valid, weight, ignore_index, avg_non_ignore)
        total = total / (factor + eps).to(total.dtype)
    accuracy = (correct.float() + eps) * (100.0 / (_count(valid) + eps)).float()
    return total, accuracy.view(1)


def check_class_weight(class_weight: Sequence[float] | Tensor | None, classes: int) -> None:
    """Raise unless there is a weight for each class, or none at all."""
    if class_weight is not None and len(class_weight) != classes:
        raise ClassWeightError(
            f'class_weight has {len(class_weight)} values, but the head has {classes} classes: '
            'give one for each.'
        )


def _check_labels(label: Tensor, valid: Tensor, classes: int, ignore_index: int) -> None:
    """Raise if a label that is not ignored is no class; ``label`` and ``valid`` are (N, H, W)."""
    wrong = valid & ((label < 0) | (label >= classes))
    if label.device.type in ('cuda', 'meta'):  # where asking for the answer would wait for it
        torch._assert_async(~wrong.any(), 'a label is neither a class nor the ignored value')
    elif wrong.any():
        value = label[wrong][0].item()
        raise LabelOutOfRangeError(
            f'A label map holds the value {value}, but the head has {classes} classes '
            f'(0 to {classes - 1}) and ignores {ignore_index}: map it to a class or to the ignored '
            "value in the dataset, or raise the head's num_classes."
        )


def _average_factor(
    label: Tensor, valid: Tensor, weight: Tensor | None, ignore_index: int, avg_non_ignore: bool
) -> Tensor:
    """What mmseg divides the summed loss by: the number of pixels, or the sum of their weights.

    ``label`` and ``valid`` (not ignored) are (N, H, W), the class weights (C,).
    """
    if weight is None:
        return _count(valid if avg_non_ignore else torch.ones_like(valid))
    total = weight[label.masked_fill(~valid, 0).long()].mul_(valid).sum()
    # mmseg uses the ignored value as an index like any other: -1 counts with the last weight.
    if not avg_non_ignore and -len(weight) <= ignore_index < len(weight):
        total = total + (label.numel() - valid.sum()) * weight[ignore_index]
    return total


def _count(valid: Tensor) -> Tensor:
    """How many are true, with as many digits as Python's numbers: asking for one would wait."""
    return valid.sum().to(torch.float32 if valid.device.type == 'mps' else torch.float64)


class _WithGradient(torch.autograd.Function):
    """A loss of the logits whose gradient, (N, C, h, w), is already known."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.logits_dtype = logits.dtype
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise SecondDerivativeError(
                'The chunked cross-entropy has no second derivative, but the backward pass ran '
                "with create_graph=True: use mmseg's PSPHead and FCNHead for this run."
            )
        (gradient,) = ctx.saved_tensors
        # Half precision comes last, after the factor by which a loss scaler avoids its underflow.
        return (gradient * grad_loss).to(ctx.logits_dtype), None, None


def _accumulate(
    logits: Tensor, label: Tensor, weight: Tensor | None, ignore_index: int, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss, the number of correct pixels, and the gradient of that sum.

    The logits and the gradient, in at least float32, are (N, C, h, w), the label is (N, H, W), the
    class weights are (C,).
    """
    classes, width = logits.shape[1], label.shape[2]
    small = at_least_float32(logits)
    axes = zip(logits.shape[2:], label.shape[1:])
    row_bytes = classes * width * small.element_size()
    chunks, columns = _resize(*axes, align_corners, row_bytes, like=small)
    buffer = small.new_empty(chunks[0].height, classes * width)
    gradient = torch.zeros_like(small)
    losses, counts = [], []
    for n in range(len(small)):
        wide = upsample_columns(small[n], columns)
        wide_gradient = torch.zeros_like(wide)
        for chunk in chunks:
            scores = chunk.upsample(wide, buffer)
            target = label[n, chunk.rows].unsqueeze(1)
            loss, correct, scores_gradient = _cross_entropy_of_rows(
                scores.view(-1, classes, width), target, weight, ignore_index
            )
            losses.append(loss)
            counts.append(correct)
            chunk.add_gradient(scores_gradient.flatten(1), wide_gradient)
        gradient[n] = upsample_columns_backward(wide_gradient, columns, small.shape[3])
    return torch.stack(losses).sum(), torch.stack(counts).sum(), gradient


@built_once  # a GPU would otherwise wait for the matrices in every step
def _resize(
    height: tuple[int, int],
    width: tuple[int, int],
    align_corners: bool,
    row_bytes: int,
    like: Tensor,
) -> tuple[list[RowChunk], Tensor | None]:
    """The chunks of rows and the matrix of columns that resize (h, H) and (w, W)."""
    rows, columns = (resize_matrix(*axis, align_corners, like.dtype) for axis in (height, width))
    chunks = split_rows(rows, row_bytes, like.device)
    return chunks, None if is_identity(columns) else columns.to(like.device)


def _cross_entropy_of_rows(
    scores: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss of R rows, the number of correct pixels, and the gradient of the loss.

    The gradient of the label's own class, p - 1, is computed as minus the sum of the other classes'
    probabilities, which keeps its digits where p is close to 1.

    Args:
        scores: (R, C, W), upsampled logits, in whose memory all of it is computed: it holds the
            gradient afterwards.
        target: (R, 1, W), integers.
        weight: (C,), the class weights.
    """
    valid = target != ignore_index
    index = target.masked_fill(~valid, 0).long()
    factor = valid.to(scores.dtype)
    if weight is not None:
        factor = factor * weight[index]

    own = scores.gather(1, index)
    others = scores.scatter_(1, index, -torch.inf)
    best_other = others.amax(1, keepdim=True)
    correct = (own > best_other) | _wins_tie(others, own, best_other, index)

    highest = torch.maximum(own, best_other)
    own = own - highest
    other_exps = others.sub_(highest).exp_()
    other_sum = other_exps.sum(1, keepdim=True)
    exp_sum = own.exp() + other_sum
    loss = (exp_sum.log() - own) * factor

    scale = factor / exp_sum
    gradient = other_exps.mul_(scale)
    gradient.scatter_(1, index, -other_sum * scale)
    return loss.sum(), (correct & valid).sum(), gradient


def _wins_tie(others: Tensor, own: Tensor, best_other: Tensor, index: Tensor) -> Tensor:
    """Where classes share the highest score, whether mmseg's ``topk`` picks the label's own.

    ``others`` are the scores, (R, C, W), with -inf for the label's own class; ``own``, the highest
    of the others, the own class and the result, which is False where there is no tie: (R, 1, W).
    """
    tie = own == best_other
    if tie.device.type != 'cpu':  # which would wait for the answer; topk promises no order there
        return tie & (index < others.argmax(1, keepdim=True))
    if not tie.any():
        return tie
    row, _, column = tie.nonzero(as_tuple=True)
    label = index[tie].unsqueeze(1)
    scores = others[row, :, column].scatter_(1, label, own[tie].unsqueeze(1))
    return tie.masked_scatter(tie, scores.topk(1).indices == label)
