"""A segmentor as a module that exporters can record, and what its file says about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any, Callable

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmseg.models.utils import Upsample
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...ops.pyramid import pool_pyramid
from ...speed.examples import input_channels
from ...utils.config_tree import kind_of
from ..models import last_head
from ..prediction.pipeline import stated_pipeline, steps_besides, swaps_channels
from .settings import ExportError, ExportSettings
from .winograd import convolved

WHOLE = (2, 4, 8, 16, 32)  # factors


class ExportedNetwork(nn.Module):
    """A segmentor of mmseg with what ``settings`` puts in front of it and behind it."""

    mean: Tensor
    std: Tensor

    def __init__(self, segmentor: Any, settings: ExportSettings) -> None:
        super().__init__()
        self.segmentor, self.settings, self.dtype = segmentor, settings, torch.float32
        pools = F.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d
        self.replacements: dict[Callable, Callable] = dict.fromkeys(pools, pooled)
        if settings.winograd:
            self.replacements[torch.conv2d] = convolved
        preprocessor = segmentor.data_preprocessor
        self.swaps_channels = swaps_channels(preprocessor)
        shift, scale = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        self.register_buffer('mean', getattr(preprocessor, 'mean', shift).clone())
        self.register_buffer('std', getattr(preprocessor, 'std', scale).clone())
        if settings.dtype == 'float16' and settings.to != 'openvino':  # which converts the file
            self.dtype = torch.float16
            segmentor.half()
        for module in segmentor.modules():
            if isinstance(module, Upsample) and module.scale_factor in WHOLE:
                module.forward = partial(upsampled, module)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """From images, (N, C, H, W), to what ``settings.output`` says."""
        x, preprocessor = image, self.segmentor.data_preprocessor
        if self.settings.normalize:  # as mmseg's preprocessor does
            x = x.flip(1) if self.swaps_channels and x.shape[1] == 3 else x
            x = (x.float() - self.mean) / self.std
        if preprocessor.test_cfg:
            down, right = padding_of(preprocessor, x.shape[2:])
            x = F.pad(x, (0, right, 0, down), value=preprocessor.pad_val)
        with Replaced(self.replacements):
            logits = first_tensor(self.segmentor(x.to(self.dtype), mode='tensor')).float()
        if self.settings.output == 'logits':
            return logits
        size, align_corners = x.shape[2:], self.segmentor.align_corners
        logits = F.interpolate(logits, size, mode='bilinear', align_corners=align_corners)
        logits = logits[..., : image.shape[2], : image.shape[3]]
        is_binary = logits.shape[1] == 1  # one channel tells foreground from background
        if self.settings.output == 'probabilities':
            return logits.sigmoid() if is_binary else logits.softmax(1)
        if is_binary:
            is_foreground = logits.sigmoid() > last_head(self.segmentor).threshold
            return is_foreground.squeeze(1).to(torch.uint8)
        return logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)


class Replaced(TorchFunctionMode):
    """Within this context other functions are called in place of torch's, which they are given."""

    def __init__(self, replacements: dict[Callable, Callable]) -> None:
        super().__init__()
        self.replacements = replacements

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in self.replacements:
            return self.replacements[func](func, *args, **kwargs or {})
        return func(*args, **kwargs or {})


def pooled(stock: Callable[..., Tensor], input: Tensor, output_size: Any) -> Tensor:
    """Adaptive average pooling, by matrices that follow from the size of the map.

    Exporters know it only where the bins divide a map of known size. ``stock`` is called for one
    cell, and where the sides have unlike bins.
    """
    sides = {output_size} if isinstance(output_size, int) else set(output_size)
    bins = sides.pop()
    if sides or bins is None or bins == 1:
        return stock(input, output_size)
    return pool_pyramid(input, [bins])[0]


def upsampled(module: Upsample, x: Tensor) -> Tensor:
    """mmseg's ``Upsample``, whose ``int(...)`` exporters record as the number of the example."""
    size = [side * int(module.scale_factor) for side in x.shape[2:]]
    return F.interpolate(x, size, None, module.mode, module.align_corners)


def first_tensor(output: Any) -> Tensor:
    """The logits among what a decode head returns: the first, as mmseg's own heads take it."""
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() != 4:
        kind = 'tensor' if isinstance(output, Tensor) else type(output).__name__
        raise ExportError(
            f'The decode head returns no map of logits (N, classes, H, W) but a {kind}; only '
            'networks that classify each pixel can be exported.'
        )
    return output


# --- what a program that knows only the file needs to know --------------------------------------


def metadata_of(
    segmentor: Any, config: Config, settings: ExportSettings, example: Tensor
) -> dict[str, str]:
    """Keys and values, each value in JSON.

    ``classes``: names; ``palette``: a colour (red, green, blue) for each; ``output``: what the file
    gives; ``input``: what has to be done with an image before the file gets it, in this order:
    ``resize`` as the config's test pipeline (``scale`` is width, height); ``channel_order`` of
    three channels; ``mean`` is subtracted and ``std`` divided by, where they are not null. The file
    does the ``padding`` of the preprocessor, and logits are those of the padded image.
    ``other_steps`` are what else the test pipeline does. ``window`` is the crop, and its stride,
    that the config predicts in: the file predicts whole images, as large as they come.
    """
    preprocessor = segmentor.data_preprocessor
    order = 'RGB' if swaps_channels(preprocessor) and not settings.normalize else 'BGR'
    steps = stated_pipeline(config, tta=False)
    resizes = [step for step in steps if kind_of(step) == 'Resize']
    content = {
        **segmentor.dataset_meta,
        'input': {
            'dtype': str(example.numpy().dtype),
            'layout': 'NCHW',
            'resize': [{k: v for k, v in step.items() if k != 'type'} for step in resizes],
            'other_steps': other_steps(steps),
            'channel_order': order if input_channels(segmentor) == 3 else None,
            'mean': None if settings.normalize else numbers(preprocessor, 'mean'),
            'std': None if settings.normalize else numbers(preprocessor, 'std'),
            'padding': dict(preprocessor.test_cfg or {}),
            'size': settings.size,
            'window': window_of(segmentor),
        },
        'output': {
            'kind': settings.output,
            'align_corners': segmentor.align_corners,
            'threshold': last_head(segmentor).threshold,
        },
        'precision': 'int8' if settings.int8 else settings.dtype,
    }
    return {key: json.dumps(value) for key, value in content.items()}


def other_steps(steps: list) -> list[str]:
    """What happens to an image before the network that neither the file does nor its user is told.

    That is a ``Resize`` by ``scale`` and ``keep_ratio``.
    """
    settings = {key for step in steps if kind_of(step) == 'Resize' for key in step}
    unusual = sorted(settings - {'type', 'scale', 'keep_ratio'})
    return [*steps_besides(steps, ['Resize']), *(f'Resize by {key}' for key in unusual)]


def window_of(segmentor: Any) -> dict[str, Any] | None:
    """The crop, and its stride, in which the segmentor predicts; None for whole images."""
    test_cfg = segmentor.test_cfg or {}
    if test_cfg.get('mode') != 'slide':
        return None
    return {key: test_cfg[key] for key in ('crop_size', 'stride')}


def numbers(preprocessor: Any, name: str) -> list[float] | None:
    """One number for each channel, or None where the preprocessor does not normalize."""
    values = getattr(preprocessor, name, None)
    if values is None:
        return None
    return [float(f'{value:.7g}') for value in values.flatten().tolist()]  # float32 has 7 digits


def padding_of(preprocessor: Any, size: Sequence[int]) -> list[Any]:
    """How many rows and columns mmseg's preprocessor adds to a test image of this size."""
    settings = preprocessor.test_cfg or {}
    if settings.get('size'):
        lacking = [least - side for least, side in zip(settings['size'], size)]
        if torch.jit.is_tracing():  # sizes are tensors, of which sym_max makes numbers
            return [torch.as_tensor(count).clamp(min=0) for count in lacking]
        return [torch.sym_max(count, 0) for count in lacking]
    divisor = settings.get('size_divisor') or 1
    return [-side % divisor for side in size]
