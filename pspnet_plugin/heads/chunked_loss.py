"""Gives a decode head the chunked cross-entropy wherever its configuration allows it."""

from __future__ import annotations

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss, cross_entropy
from mmseg.utils import SampleList
from torch import Tensor, nn

from ..ops.chunked_cross_entropy import chunked_cross_entropy
from ..ops.precision import may_be_finite
from ..ops.tracing import is_recorded
from .modified_modules import is_hooked


class ChunkedLossMixin(BaseDecodeHead):
    """The first base of a decode head, whose loss then never holds full-size logits.

    The numbers are those of ``BaseDecodeHead.loss_by_feat``, which still computes the loss of a
    head with a pixel sampler, with logits that are not finite, with a single output channel, with
    class weights of which the ignored value is an index, with any loss but the softmax
    ``CrossEntropyLoss``, or with hooks on it.
    """

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        """Losses and pixel accuracy.

        Args:
            seg_logits: (N, C, h, w) as ``forward`` returns them.
            batch_data_samples: N samples whose ``gt_sem_seg`` has the shape (1, H, W).

        Raises:
            LabelOutOfRangeError: a label is neither a class nor the ignored value.
        """
        several = isinstance(self.loss_decode, nn.ModuleList)
        losses = list(self.loss_decode) if several else [self.loss_decode]
        classes = seg_logits.shape[1]
        if self.sampler is not None or classes == 1 or not all(map(_can_be_chunked, losses)):
            return super().loss_by_feat(seg_logits, batch_data_samples)
        if not (is_recorded(seg_logits) or may_be_finite(seg_logits)):
            return super().loss_by_feat(seg_logits, batch_data_samples)
        weighted = any(loss.class_weight is not None for loss in losses)
        if weighted and -classes <= self.ignore_index < classes:
            # mmseg 1.2 weighs ignored pixels with the entry at this index, its fork does not.
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


def _can_be_chunked(loss: nn.Module) -> bool:
    # Not isinstance: a subclass may compute anything.
    return (
        type(loss) is CrossEntropyLoss
        and loss.cls_criterion is cross_entropy
        and not is_hooked(loss)
        and not loss.use_sigmoid
        and not loss.use_mask
        and loss.reduction in ('mean', 'sum')
    )
