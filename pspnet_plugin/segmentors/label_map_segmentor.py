"""The segmentor that predicts a label map without the full-size logits, where that is exact."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor, nn

from ..errors import PredictionError
from ..heads.modified_modules import has_methods_of
from ..ops.label_map import label_map


@MODELS.register_module()
class LabelMapEncoderDecoder(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` that can leave out the full-size logits in prediction.

    With ``test_cfg=dict(mode='whole', seg_logits=False)`` a predicted sample carries
    ``pred_sem_seg`` alone, with the labels of stock; mmseg's metrics and visualizers need no more.
    Sliding windows, a single output channel, and segmentors and heads with methods of their own for
    prediction are predicted as in stock. Test-time augmentation averages logits: it needs
    :class:`LogitsTTAModel`.
    """

    keep_seg_logits = True  # the default of test_cfg.seg_logits

    def predict(self, inputs: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """Predict the label map of each image.

        Args:
            inputs: (N, 3, H, W).
            data_samples: N samples whose metainfo holds the sizes; without them the label maps have
                the size of ``inputs``.

        Returns:
            The samples with ``pred_sem_seg``, (1, H, W) int64, and also ``seg_logits``, (C, H, W),
            where stock predicts.

        Raises:
            PredictionError: an image was flipped neither horizontally nor vertically.
        """
        if self.test_cfg.get('seg_logits', self.keep_seg_logits) or not self._label_map_is_exact():
            return super().predict(inputs, data_samples)
        logits = self.decode_head(self.extract_feat(inputs))
        metas: list[dict[str, Any]]
        if data_samples is None:
            data_samples = [SegDataSample() for _ in range(len(inputs))]
            size = tuple(inputs.shape[2:])
            metas = [{'img_shape': size, 'ori_shape': size}] * len(inputs)
        else:
            metas = [sample.metainfo for sample in data_samples]
        input_size = _input_size(metas[0])
        for sample, image, meta in zip(data_samples, logits, metas):
            padding = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
            flip = _flip_direction(meta)
            original_size = meta['ori_shape'][:2]
            labels = label_map(image, input_size, original_size, padding, flip, self.align_corners)
            sample.set_data({'pred_sem_seg': PixelData(data=labels)})
        return data_samples

    def _label_map_is_exact(self) -> bool:
        own = 'inference', 'whole_inference', 'encode_decode', 'postprocess_result'
        return (
            self.test_cfg.get('mode', 'whole') == 'whole'
            and self.out_channels > 1
            and has_methods_of(EncoderDecoder, self, own)
            and has_methods_of(BaseDecodeHead, self.decode_head, ('predict', 'predict_by_feat'))
        )


def _input_size(meta: dict) -> tuple[int, int]:
    """The height and width that mmseg's heads resize to, the same for all images of a batch."""
    if 'pad_shape' in meta and not isinstance(meta['img_shape'], torch.Size):
        return tuple(meta['pad_shape'][:2])
    return tuple(meta['img_shape'][:2])


def _flip_direction(meta: dict) -> str | None:
    """In which of the directions that mmseg flips back an image was flipped, None if it was not."""
    if not meta.get('flip'):
        return None
    direction = meta.get('flip_direction')
    if direction not in ('horizontal', 'vertical'):
        raise PredictionError(
            f'An image was flipped in the direction {direction!r}, and labels are flipped back '
            "'horizontal' or 'vertical' alone, as in mmseg: predict on images flipped so."
        )
    return direction


@MODELS.register_module()
class LogitsTTAModel(SegTTAModel):
    """mmseg's ``SegTTAModel``, whose segmentor keeps the logits whatever its ``test_cfg`` says.

    The labels of a single output channel come from the mean of the views' probabilities. Stock
    takes the sigmoid of these once more, which is more than half for every pixel.
    """

    def __init__(self, module: Any, data_preprocessor: Any = None) -> None:
        if isinstance(module, nn.Module):
            module = copy.copy(module)  # somebody's own keeps what its test_cfg says
        super().__init__(module, data_preprocessor)
        test_cfg = getattr(self.module, 'test_cfg', None) or {}  # only EncoderDecoder needs one
        self.module.test_cfg = ConfigDict({**test_cfg, 'seg_logits': True})

    def merge_preds(self, data_samples_list: list[SampleList]) -> SampleList:
        """The samples with the labels of all views of an image, for each image."""
        merged = super().merge_preds(data_samples_list)
        if self.module.out_channels == 1:
            for sample, views in zip(merged, data_samples_list):
                mean = sum(view.seg_logits.data for view in views) / len(views)
                labels = (mean > self.module.decode_head.threshold).to(mean)
                sample.set_data({'pred_sem_seg': PixelData(data=labels)})
        return merged
