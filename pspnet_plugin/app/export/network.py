"""A segmentor as a module that exporters can record: tensors in, one tensor out."""

from __future__ import annotations

from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...ops.pyramid import pool_pyramid
from ..models.segmentor import last_head
from .errors import ExportError
from .metadata import swaps_channels
from .settings import ExportSettings
from .winograd import convolved


class ExportedNetwork(nn.Module):
    """A segmentor with what ``settings`` puts in front of it and behind it.

    Args:
        segmentor: of mmseg, in evaluation mode.
        settings: see :class:`ExportSettings`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, segmentor: Any, settings: ExportSettings) -> None:
        super().__init__()
        self.segmentor = segmentor
        self.output, self.dtype = settings.output, torch.float32
        self.threshold = last_head(segmentor).threshold
        preprocessor = segmentor.data_preprocessor
        self.normalizes = settings.normalize
        pools = F.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d
        self.replacements: dict[Callable, Callable] = dict.fromkeys(pools, pooled)
        if settings.winograd:
            self.replacements[torch.conv2d] = convolved
        self.swaps_channels = swaps_channels(preprocessor)
        shift, scale = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        self.register_buffer('mean', getattr(preprocessor, 'mean', shift).clone())
        self.register_buffer('std', getattr(preprocessor, 'std', scale).clone())
        if settings.dtype == 'float16' and settings.to != 'openvino':  # which converts the file
            self.dtype = torch.float16
            segmentor.half()
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """From images, (N, C, H, W), to what ``settings.output`` says."""
        x = self.normalized(image) if self.normalizes else image
        with Replaced(self.replacements):
            logits = first_tensor(self.segmentor(x.to(self.dtype), mode='tensor')).float()
        if self.output == 'logits':
            return logits
        size, align_corners = image.shape[2:], self.segmentor.align_corners
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=align_corners)
        if self.output == 'probabilities':
            return logits.sigmoid() if self.is_binary(logits) else logits.softmax(1)
        return self.labels(logits)

    def normalized(self, image: Tensor) -> Tensor:
        """What mmseg's preprocessor makes of an image as it was read."""
        if self.swaps_channels and image.shape[1] == 3:
            image = image.flip(1)
        return (image.float() - self.mean) / self.std

    def labels(self, logits: Tensor) -> Tensor:
        """The class of each pixel as mmseg chooses it, (N, H, W)."""
        if self.is_binary(logits):
            return (logits.sigmoid() > self.threshold).squeeze(1).to(torch.uint8)
        labels = logits.argmax(1)
        return labels.to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)

    @staticmethod
    def is_binary(logits: Tensor) -> bool:
        """Whether one channel tells foreground from background."""
        return logits.shape[1] == 1


class Replaced(TorchFunctionMode):
    """Within this context other functions are called in place of torch's.

    Args:
        replacements: by torch's function; each is called with that one, then with its arguments.
    """

    def __init__(self, replacements: dict[Callable, Callable]) -> None:
        super().__init__()
        self.replacements = replacements

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        replacement = self.replacements.get(func)
        if replacement is not None:
            return replacement(func, *args, **kwargs or {})
        return func(*args, **kwargs or {})


def pooled(stock: Callable[..., Tensor], input: Tensor, output_size: Any) -> Tensor:
    """Adaptive average pooling, by matrices that follow from the size of the map.

    Exporters know it only where the bins divide a map of known size. Stock's is taken for one cell,
    and where the sides have unlike bins.
    """
    sides = {output_size} if isinstance(output_size, int) else set(output_size)
    bins = sides.pop()
    if sides or bins is None or bins == 1:
        return stock(input, output_size)
    return pool_pyramid(input, [bins])[0]


def first_tensor(output: Any) -> Tensor:
    """The logits among what a decode head returns: the first, as mmseg's own heads take it.

    Raises:
        ExportError: the head returns no map of logits, as one that predicts masks and classes.
    """
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() != 4:
        kind = 'tensor' if isinstance(output, Tensor) else type(output).__name__
        raise ExportError(
            f'The decode head returns no map of logits (N, classes, H, W) but a {kind}; only '
            'networks that classify each pixel can be exported.'
        )
    return output
