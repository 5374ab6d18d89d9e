"""Prediction of one picture, from its file to its label map."""

from __future__ import annotations

import tempfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.apis import inference_model
from mmseg.models.backbones.resnet import Bottleneck
from mmseg.models.segmentors import EncoderDecoder
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pspnet_plugin.speed.folding import fold_batch_norms

from .measuring import peak_memory, time_alternately
from .models import CHANNELS_LAST, HEAD, KEPT_MEMORY, STRIPS, build, stock_config, to_channels_last
from .settings import Settings
from .table import ABOVE, Beside, Quantity, Table, Wanted
from .train import variants

FOLDING = 'folding'
PARTS = (HEAD, CHANNELS_LAST, FOLDING, STRIPS, KEPT_MEMORY)
STRENGTH_OF_BRANCHES = 0.2
TIME, LABELS = 'file to label map', 'labels equal to stock'


def write_picture(path: Path, size: tuple[int, int]) -> None:
    """A picture of (H, W) pixels with structure of all sizes, the same each time."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.zeros(1, 3, *size)
    cells = 2
    while cells <= min(size) // 4:
        noise = torch.randn(1, 3, cells, 2 * cells, generator=generator)
        pixels += F.interpolate(noise, size=size, mode='bicubic') / cells**0.5
        cells *= 2
    pixels = (128 + 60 * pixels[0] / pixels.std()).clamp(0, 255).permute(1, 2, 0)
    Image.fromarray(pixels.numpy().astype(np.uint8)).save(path)


@lru_cache(maxsize=1)
def weights(picture: str, settings: Settings) -> dict[str, Tensor]:
    """Random weights that give the picture many labels, and rounding no more say than usual.

    The batch norms have seen the picture. As in a trained network, a residual block changes its
    input little; with branches of full strength, half precision alone would change most labels.
    """
    model = build(settings)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the statistics of this one batch, not a moving average
        elif isinstance(module, Bottleneck):
            nn.init.constant_(module.norm3.weight, STRENGTH_OF_BRANCHES)
    model.train()
    with torch.no_grad():
        # Two halves, because batch norm needs more than one value of the level of one bin.
        halves = example(picture, model, settings).chunk(2, dim=3)
        model(torch.cat(halves), mode='tensor')
    return model.state_dict()


def example(picture: str, model: EncoderDecoder, settings: Settings) -> Tensor:
    """The picture as the network reads it: (1, 3, H, W), normalized."""
    with Image.open(picture) as opened:
        pixels = np.array(opened.resize(settings.crop[::-1]))[..., ::-1].copy()
    inputs = [torch.from_numpy(pixels).permute(2, 0, 1)]
    return model.data_preprocessor({'inputs': inputs}, False)['inputs']


def prepare(parts: tuple[str, ...], picture: str, settings: Settings) -> Callable[[], Tensor]:
    """mmseg's own inference on the model with these parts; returns the label map (H, W)."""
    model = build(settings, parts)
    model.load_state_dict(weights(picture, settings))
    if CHANNELS_LAST in parts:
        to_channels_last(model)  # loading copies into the tensors as they lie, it changes nothing
    model.eval()
    if FOLDING in parts:
        inputs = example(picture, model, settings)
        model, _ = fold_batch_norms(model, lambda folded: folded(inputs, mode='tensor'))
    model.cfg = stock_config(settings)
    height, width = settings.crop
    model.cfg.test_pipeline[1].scale = (width, height)
    model.forward = settings.compiled(model.forward)

    def step() -> Tensor:
        with settings.autocast():
            return inference_model(model, picture).pred_sem_seg.data[0].cpu()

    return step


def measure(settings: Settings) -> list[Table]:
    """Stock, and the parts one after the other, on a picture of twice the network's input."""
    last = f'+ {KEPT_MEMORY}'
    height, width = settings.crop
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder, 'picture.png'))
        write_picture(Path(picture), (2 * height, 2 * width))
        preparations = {
            name: partial(prepare, parts, picture, settings)
            for name, parts in variants(PARTS).items()
        }
        steps = {name: prepared() for name, prepared in preparations.items()}
        seconds = time_alternately(steps, settings, (last,))
        labels = {name: step() for name, step in steps.items()}
        memory = peak_memory(preparations, settings, (last,))
    return [
        Table(
            title=(
                f'Prediction by PSPNet-R50-d8 at {height} x {width}, picture of {2 * height} x '
                f'{2 * width}'
            ),
            beside=(Beside('stock'), Beside(ABOVE)),
            quantities=(
                Quantity(TIME, 's', seconds),
                Quantity('peak memory', 'bytes', memory),
                Quantity(LABELS, '%', {name: [share_equal(labels, name)] for name in labels}),
            ),
            wanted=(
                Wanted(TIME, last, 'stock', low=1.6),
                Wanted(LABELS, last, None, low=99.99),
            ),
        )
    ]


def share_equal(labels: dict[str, Tensor], name: str) -> float:
    """Percent of the pixels that have stock's label."""
    return 100 * (labels[name] == labels['stock']).double().mean().item()
