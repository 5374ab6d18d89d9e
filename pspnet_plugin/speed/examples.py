"""Example inputs of a segmentor, on which it is folded and tried."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.utils import _pair

from .folding import Run

SMALLEST_SIDE = 64  # of the inputs on which a model is folded: 2 at stride 32
STRIDE = 16  # of the map that a head pools in windows of fixed size, at most


def example_runs(model: nn.Module) -> list[Run]:
    """Calls of ``model``, a segmentor, on noise of two sizes, which find out what depends on them.

    mmseg's BEiT and MAE take images of one size alone, and are called on that.
    """
    backbone: Any = getattr(_segmentor(model), 'backbone', None)
    if hasattr(backbone, 'patch_shape'):
        return [partial(_run_example, size=tuple(backbone.img_size))]
    # The head of MobileNetV3 averages windows of 49 x 49, and fails on smaller maps.
    pools = [max(_pair(m.kernel_size)) for m in model.modules() if isinstance(m, nn.AvgPool2d)]
    side = max([SMALLEST_SIDE, *(STRIDE * window for window in pools)])
    return [partial(_run_example, size=s) for s in ((side, side), (side + 64, side + 96))]


def _run_example(model: nn.Module, size: tuple[int, int]) -> object:
    model = _segmentor(model)
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, input_channels(model), *size, generator=generator)
    # SegNeXt's head starts from random numbers in evaluation too: the same ones in every run.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        return model(noise.to(parameter), mode='tensor')


def _segmentor(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, BaseTTAModel) else model


def input_channels(model: nn.Module) -> int:
    """How many channels an image has that ``model`` reads."""
    mean = getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    if mean is not None and len(mean) > 1:  # One mean may serve any number of channels.
        return len(mean)
    return next(m.in_channels for m in model.modules() if isinstance(m, _ConvNd))
