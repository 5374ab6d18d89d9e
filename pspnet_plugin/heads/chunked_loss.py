"""Gives a decode head the chunked cross-entropy wherever its configuration allows it."""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss, cross_entropy
from mmseg.utils import SampleList
from torch import Tensor, nn

from ..ops.chunked_cross_entropy import check_class_weight, chunked_cross_entropy
from ..ops.precision import may_be_finite
from ..ops.tracing import is_recorded, is_transformed
from .modified_modules import is_hooked


class ChunkedLossMixin(BaseDecodeHead):
    """The first base of a decode head, whose loss then never holds full-size logits.

    The numbers are those of ``BaseDecodeHead.loss_by_feat``, which still computes the loss of a
    head with a pixel sampler, with logits that are not finite, with a single output channel, with
    class weights of which the ignored value is an index, with any loss but the softmax
    ``CrossEntropyLoss``, with hooks on it, or within ``torch.func`` and forward-mode AD.
    """

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses and pixel accuracy.

        Args:
            seg_logits: (N, C, h, w) as ``forward`` returns them.
            batch_data_samples: N samples whose ``gt_sem_seg`` has the shape (1, H, W).

        Raises:
            ClassWeightError: there is another number of class weights than of classes.
            LabelOutOfRangeError: a label is neither a class nor the ignored value.
        """
        several = isinstance(self.loss_decode, nn.ModuleList)
        losses = list(self.loss_decode) if several else [self.loss_decode]
        classes = seg_logits.shape[1]
        weighted = [loss for loss in losses if _is_softmax(loss) and loss.class_weight is not None]
        for loss in weighted:
            check_class_weight(loss.class_weight, classes)
        # mmseg 1.2 weighs ignored pixels with the entry at this index, its fork does not.
        weighs_ignored = bool(weighted) and -classes <= self.ignore_index < classes
        if (
            self.sampler is not None
            or classes == 1
            or not all(map(_can_be_chunked, losses))
            or weighs_ignored
            or is_transformed(seg_logits)
            or not (is_recorded(seg_logits) or may_be_finite(seg_logits))
        ):
            for loss in weighted:
                loss.cls_criterion = cross_entropy if weighs_ignored else weighted_cross_entropy
            return super().loss_by_feat(seg_logits, batch_data_samples)
        label = self._stack_batch_gt(batch_data_samples).squeeze(1)
        result: dict[str, Tensor] = {}
        for loss in losses:
            value, accuracy = chunked_cross_entropy(
                seg_logits,
                label,
                class_weight=loss.class_weight,
                ignore_index=self.ignore_index,
                avg_non_ignore=loss.avg_non_ignore,
                reduction=loss.reduction,
                align_corners=self.align_corners,
            )
            result[loss.loss_name] = result.get(loss.loss_name, 0) + loss.loss_weight * value
        result['acc_seg'] = accuracy
        return result


def weighted_cross_entropy(
    pred: Tensor,
    label: Tensor,
    weight: Tensor | None = None,
    *,
    class_weight: Tensor,
    reduction: str = 'mean',
    avg_factor: Any = None,
    ignore_index: int = 255,
    **kwargs: Any,
) -> Tensor:
    """mmseg's ``cross_entropy`` where ignored pixels have no class weight, for which it fails.

    Their weight is zero in what the sum is divided by.
    """
    if reduction == 'mean' and avg_factor is None:
        ignored = label == ignore_index
        avg_factor = class_weight[label.masked_fill(ignored, 0)].masked_fill(ignored, 0).sum()
    return cross_entropy(
        pred, label, weight, class_weight, reduction, avg_factor, ignore_index, **kwargs
    )


def _is_softmax(loss: nn.Module) -> bool:
    # Not isinstance: a subclass may compute anything.
    criteria = cross_entropy, weighted_cross_entropy
    return type(loss) is CrossEntropyLoss and loss.cls_criterion in criteria


def _can_be_chunked(loss: nn.Module) -> bool:
    return (
        _is_softmax(loss)
        and not is_hooked(loss)
        and not loss.use_sigmoid
        and not loss.use_mask
        and loss.reduction in ('mean', 'sum')
    )
