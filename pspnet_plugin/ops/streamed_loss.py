"""Cross-entropy and pixel accuracy of upsampled logits that never exist at full size.

The stock way resizes the logits to the label's size, (N, C, H, W), and keeps that and its softmax
for the backward pass. Here a strip of rows is upsampled, its loss, accuracy and gradient are
computed, and the gradient is carried back to the small map at once; then the strip is forgotten.
The method is that of fused linear cross-entropies for language models, with bilinear resizing as
the linear map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch._dynamo
from torch import Tensor

from ..errors import PspnetPluginError
from .strips import (
    resize_operator,
    split_rows,
    upsample_columns,
    upsample_columns_backward,
    working_dtype,
)


class LabelOutOfRangeError(PspnetPluginError, IndexError):
    """A label is neither a class of the head nor the ignored value."""


class SecondDerivativeError(PspnetPluginError, RuntimeError):
    """The gradient of the streamed loss was asked for with a graph of its own."""


@torch._dynamo.disable  # A compiled model is cut here once, not at every strip.
def streamed_cross_entropy(
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

    Equal to mmseg's ``resize``, ``CrossEntropyLoss`` and ``accuracy`` one after the other, with
    their averages: the mean is over all pixels, each counted by its class's weight, or with
    ``avg_non_ignore`` over those that are not ignored. Where mmseg fails because the ignored value
    has no class weight, it counts zero here. Half-precision logits are computed in float32.

    Args:
        logits: (N, C, h, w), C > 1.
        label: (N, H, W), integers in [0, C) or ``ignore_index``.
        class_weight: one weight for each class.
        reduction: ``'mean'`` or ``'sum'``.

    Returns:
        The loss, a scalar that can be differentiated once, and the share of correctly classified
        pixels among those not ignored, in percent, (1,).

    Raises:
        LabelOutOfRangeError: a label that is not ignored is negative or not below C.
        SecondDerivativeError: in the backward pass, with ``create_graph=True``.
    """
    valid = label != ignore_index
    _check_labels(label, valid, logits.shape[1], ignore_index)
    dtype = working_dtype(logits)
    weight = None
    if class_weight is not None:
        weight = torch.as_tensor(class_weight, dtype=dtype, device=logits.device)
    differentiate = torch.is_grad_enabled() and logits.requires_grad
    total, correct = _StreamedCrossEntropy.apply(
        logits, label, weight, ignore_index, align_corners, differentiate
    )
    eps = torch.finfo(torch.float32).eps
    if reduction == 'mean':
        total = total / (_average_factor(label, valid, weight, ignore_index, avg_non_ignore) + eps)
    accuracy = (correct.float() + eps) * (100.0 / (valid.sum().item() + eps))
    return total, accuracy.view(1)


def _check_labels(label: Tensor, valid: Tensor, classes: int, ignore_index: int) -> None:
    wrong = valid & ((label < 0) | (label >= classes))
    if wrong.any():
        value = label[wrong][0].item()
        raise LabelOutOfRangeError(
            f'A label map holds the value {value}, but the head has {classes} classes '
            f'(0 to {classes - 1}) and ignores {ignore_index}: map it to a class or to the ignored '
            "value in the dataset, or raise the head's num_classes."
        )


def _average_factor(
    label: Tensor, valid: Tensor, weight: Tensor | None, ignore_index: int, avg_non_ignore: bool
) -> Tensor | int:
    """What mmseg divides the summed loss by."""
    if weight is None:
        return valid.sum().item() if avg_non_ignore else label.numel()
    total = weight[label.masked_fill(~valid, 0).long()].mul_(valid).sum()
    # mmseg looks the ignored value up as any other, and so counts it where it is an index.
    if not avg_non_ignore and -len(weight) <= ignore_index < len(weight):
        total = total + (label.numel() - valid.sum()) * weight[ignore_index]
    return total


class _StreamedCrossEntropy(torch.autograd.Function):
    """Summed loss and number of correct pixels; the gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx, logits, label, weight, ignore_index, align_corners, differentiate):
        with torch.autocast(logits.device.type, enabled=False):
            total, correct, gradient = _accumulate(
                logits, label, weight, ignore_index, align_corners, differentiate
            )
        ctx.mark_non_differentiable(correct)
        if differentiate:
            # In float32 even for half-precision logits: a loss scaler acts before the cast.
            ctx.save_for_backward(gradient)
            ctx.logits_dtype = logits.dtype
        return total, correct

    @staticmethod
    def backward(ctx, grad_total, _):
        if torch.is_grad_enabled():
            raise SecondDerivativeError(
                'The streamed loss has no second derivative, but the backward pass ran with '
                "create_graph=True: use mmseg's PSPHead and FCNHead for this run."
            )
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_total).to(ctx.logits_dtype), None, None, None, None, None


def _accumulate(logits, label, weight, ignore_index, align_corners, differentiate):
    """Loss, correct pixels and gradient of the whole batch, image by image, strip by strip."""
    classes, (height, width) = logits.shape[1], label.shape[1:]
    small = logits.to(working_dtype(logits))
    rows = resize_operator(logits.shape[2], height, align_corners, small)
    columns = resize_operator(logits.shape[3], width, align_corners, small)
    strips = split_rows(rows, classes * width * small.element_size())
    buffer = small.new_empty(len(strips[0].weights), classes * width)
    gradient = torch.empty_like(small) if differentiate else None
    losses, counts = [], []
    for n in range(len(small)):
        wide = upsample_columns(small[n], columns)
        wide_gradient = torch.zeros_like(wide) if differentiate else None
        for strip in strips:
            scores = torch.mm(strip.weights, wide[strip.sources], out=buffer[: len(strip.weights)])
            target = label[n, strip.rows].unsqueeze(1)
            loss, correct = _strip_cross_entropy(
                scores.view(-1, classes, width), target, weight, ignore_index, differentiate
            )
            losses.append(loss)
            counts.append(correct)
            if differentiate:
                wide_gradient[strip.sources].addmm_(strip.weights.t(), scores)
        if differentiate:
            gradient[n] = upsample_columns_backward(wide_gradient, columns)
    return torch.stack(losses).sum(), torch.stack(counts).sum(), gradient


def _strip_cross_entropy(scores, target, weight, ignore_index, differentiate):
    """Summed loss and correct pixels of scores (R, C, W), overwritten by their gradient.

    The label's own class is kept apart: its gradient, p - 1, is then a sum of the other classes'
    probabilities, without the cancellation.
    """
    valid = target != ignore_index
    index = target.masked_fill(~valid, 0).long()
    own = scores.gather(1, index)
    others = scores.scatter_(1, index, -torch.inf)
    best_other = others.amax(1, keepdim=True)
    correct = (own > best_other) | _wins_tie(scores, own, best_other, index)
    highest = torch.maximum(own, best_other)
    others_sum = others.sub_(highest).exp_().sum(1, keepdim=True)
    own.sub_(highest)
    normalizer = own.exp().add_(others_sum)
    factor = valid.to(scores.dtype)
    if weight is not None:
        factor = factor * weight[index]
    loss = (normalizer.log() - own).mul_(factor).sum()
    if differentiate:
        factor = factor / normalizer
        others.mul_(factor).scatter_(1, index, -others_sum * factor)
    return loss, (correct & valid).sum()


def _wins_tie(others, own, best_other, index):
    """Where several classes share the highest score: whether mmseg's ``topk`` picks the own."""
    tie = own == best_other
    if not tie.any():
        return tie
    row, _, column = tie.nonzero(as_tuple=True)
    label = index[tie].unsqueeze(1)
    scores = others[row, :, column].scatter_(1, label, own[tie].unsqueeze(1))
    return tie.masked_scatter(tie, scores.topk(1).indices == label)
