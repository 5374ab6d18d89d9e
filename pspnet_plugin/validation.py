"""What a validation logs beside mmseg's means: the IoU of each class, and the loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from mmseg.structures import SegDataSample
from torch import Tensor

from .utils.distributed import unwrapped

# With these, save_best='IoU/crack' and monitor='IoU/crack' need no rule='greater'.
CheckpointHook._default_greater_keys.append('IoU/')
EarlyStoppingHook._default_greater_keys.append('IoU/')


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """mmseg's ``IoUMetric``, which also gives the IoU of each class, as ``IoU/NAME`` in percent.

    So it is in the log and in TensorBoard, and ``save_best='IoU/crack'`` keeps the checkpoint that
    is best for a class. A class that is neither in labels nor in predictions has the value NaN.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        intersection, union = (sum(areas) for areas in list(zip(*results))[:2])
        ious = (100 * intersection / union).tolist()
        for name, iou in zip(self.dataset_meta['classes'], ious):
            missing = iou != iou and self.nan_to_num is not None
            metrics[f'IoU/{name}'] = round(self.nan_to_num if missing else iou, 2)
        return metrics


@HOOKS.register_module()
class ValidationLossHook(Hook):
    """Computes the loss on the validation images, ``val_loss``, which costs one more pass.

    It is the sum that training logs as ``loss``, auxiliary heads included, without dropout, at the
    size that the network sees: label maps are resized to it. ``save_best='val_loss'`` keeps the
    checkpoint where it is lowest. The loss of several images is the mean over them.

    Example:
        default_hooks=dict(validation_loss=dict(type='ValidationLossHook'))
    """

    priority = 'HIGHEST'  # before the hook that takes metrics into the log

    def before_val_epoch(self, runner: Runner) -> None:
        """Start anew."""
        self._total, self._images = 0.0, 0

    @torch.no_grad()
    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add the loss of a batch."""
        model: Any = unwrapped(runner.model)
        data = model.data_preprocessor(data_batch, False)
        inputs, ignored = data['inputs'], model.data_preprocessor.seg_pad_val
        samples = [with_label_of_input(s, inputs, ignored) for s in data['data_samples']]
        loss, _ = model.parse_losses(model.loss(inputs, samples))
        self._total += float(loss) * len(samples)
        self._images += len(samples)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Put the mean among the metrics."""
        sums = torch.tensor([self._total, self._images], dtype=torch.float64)
        all_reduce(sums)
        if metrics is not None and sums[1]:
            metrics['val_loss'] = float(sums[0] / sums[1])


def with_label_of_input(sample: SegDataSample, inputs: Tensor, ignored: int) -> SegDataSample:
    """A sample whose label map has the size of the network's input, as in training.

    Args:
        inputs: (N, C, H, W), which may be padded at the right and at the bottom.
        ignored: the label of padding.
    """
    height, width = sample.img_shape[:2]
    labels = F.interpolate(sample.gt_sem_seg.data[None].double(), (height, width)).long()
    padding = (0, inputs.shape[3] - width, 0, inputs.shape[2] - height)
    fitted = SegDataSample(metainfo=sample.metainfo)
    fitted.set_data(
        {'gt_sem_seg': type(sample.gt_sem_seg)(data=F.pad(labels, padding, value=ignored)[0])}
    )
    return fitted
