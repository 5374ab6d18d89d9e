"""Whether an exported file gives the label maps that PyTorch gives."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.segmentor import last_head
from .images import resized
from .metadata import size_divisor
from .onnx_file import Predict
from .settings import ExportSettings

ODD_SIZE = (161, 203)  # neither the stride of a network nor the bins of a pyramid divide it


class Reference:
    """The segmentor in PyTorch, as mmseg itself predicts with it, beside the exported file.

    Args:
        segmentor: as the config builds it, in evaluation mode.
        settings: of the export.
    """

    def __init__(self, segmentor: Any, settings: ExportSettings) -> None:
        self.segmentor, self.settings = segmentor, settings
        # Padding is no part of the network: who asks the file pads, or gives what needs none.
        self.preprocessor = copy.copy(segmentor.data_preprocessor)
        self.preprocessor.test_cfg = None
        self.divisor = size_divisor(segmentor)

    def fitted(self, image: Tensor) -> Tensor:
        """An image as it was read, (C, H, W), at a size that the file takes."""
        return resized(image, self.settings.size or multiple(image.shape[1:], self.divisor))

    @torch.no_grad()
    def labels(self, images: Tensor) -> Tensor:
        """The label maps, (N, H, W), of images as they were read, (N, C, H, W)."""
        size = tuple(images.shape[2:])
        metas = [{'img_shape': size, 'ori_shape': size, 'pad_shape': size}] * len(images)
        logits = self.segmentor.encode_decode(self.normalized(images), metas)
        predicted = self.segmentor.postprocess_result(logits)
        return torch.stack([sample.pred_sem_seg.data[0] for sample in predicted])

    def labels_of_file(self, predict: Predict, images: Tensor) -> Tensor:
        """The label maps, (N, H, W), that the file gives for the same images."""
        output = torch.from_numpy(predict(self.input_of(images)))
        if self.settings.output == 'labels':
            return output.long()
        if self.settings.output == 'logits':
            corners = self.segmentor.align_corners
            size = images.shape[2:]
            output = F.interpolate(output.float(), size, mode='bilinear', align_corners=corners)
        if output.shape[1] > 1:
            return output.argmax(1)
        scores = output.sigmoid() if self.settings.output == 'logits' else output
        return (scores > last_head(self.segmentor).threshold).long()[:, 0]

    def input_of(self, images: Tensor) -> np.ndarray:
        """What the file is given for images as they were read, (N, C, H, W)."""
        return (images if self.settings.normalize else self.normalized(images)).numpy()

    def normalized(self, images: Tensor) -> Tensor:
        """The images as the network takes them, by mmseg's own preprocessor."""
        return self.preprocessor({'inputs': list(images)}, False)['inputs']


def batches(images: list[Tensor], reference: Reference) -> Iterator[Tensor]:
    """What a file is checked with: each image alone, and all in one batch of an odd size.

    Args:
        images: (C, H, W) each, as they were read, at a size that the file takes.
    """
    yield from (image[None] for image in images)
    if reference.settings.size is None:
        size = multiple(ODD_SIZE, reference.divisor)
        yield torch.stack([resized(image, size) for image in images])


def multiple(size: Sequence[int], divisor: int) -> tuple[int, int]:
    """The size with both sides rounded up to multiples of ``divisor``."""
    height, width = (-(-side // divisor) * divisor for side in size)
    return height, width


def share_of_other_labels(
    reference: Reference, predict: Predict, checked: Iterable[Tensor]
) -> float:
    """The share of the pixels with another label, in the batch where it is largest."""
    shares = [
        (reference.labels_of_file(predict, images) != reference.labels(images)).float().mean()
        for images in checked
    ]
    return max(share.item() for share in shares)
