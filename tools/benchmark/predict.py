"""Prediction of one image, from its file to its label map."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from mmseg.apis import inference_model
from mmseg.models.backbones.resnet import Bottleneck
from mmseg.models.segmentors import EncoderDecoder
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pspnet_plugin.speed.folding import fold_batch_norms

from . import runtimes
from .inputs import write_image
from .memory import peak_memory
from .models import (
    CHANNELS_LAST,
    HEAD,
    KEPT_MEMORY,
    NETWORKS,
    STRIPS,
    build,
    cumulative,
    stock_config,
)
from .settings import Settings
from .table import ABOVE, Baseline, Quantity, Table, Wanted
from .timing import time_alternately

FOLDING = 'folding'
PARTS = (HEAD, CHANNELS_LAST, FOLDING, STRIPS, KEPT_MEMORY)
BRANCH_SCALE = 0.2
TIME, LABELS = 'file to label map', 'labels equal to stock'


@lru_cache(maxsize=1)
def weights(image: str, settings: Settings) -> dict[str, Tensor]:
    """Random weights that predict many labels, as sensitive to rounding as trained weights are.

    The running statistics of the batch norms are those of the image. Each residual branch is scaled
    down, because a block of a trained network changes its input little: with unscaled branches, the
    rounding errors of half precision would change most labels.
    """
    model = build(settings)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # None: the statistics of this batch, not a moving average
        elif isinstance(module, Bottleneck):
            nn.init.constant_(module.norm3.weight, BRANCH_SCALE)
    model.train()
    with torch.no_grad():
        # A batch of two halves: batch norm cannot normalize a 1 x 1 map of a single image.
        halves = example(image, model, settings).chunk(2, dim=3)
        model(torch.cat(halves), mode='tensor')
    return model.state_dict()


def example(image: str, model: EncoderDecoder, settings: Settings) -> Tensor:
    """The image as the network reads it: (1, 3, H, W), normalized."""
    with Image.open(image) as opened:
        pixels = np.array(opened.resize(settings.crop[::-1]))[..., ::-1].copy()
    inputs = [torch.from_numpy(pixels).permute(2, 0, 1)]
    return model.data_preprocessor({'inputs': inputs}, False)['inputs']


def build_for_prediction(parts: tuple[str, ...], image: str, settings: Settings) -> EncoderDecoder:
    """The model with these parts and the weights that suit ``image``, in evaluation mode."""
    model = build(settings, parts)
    model.load_state_dict(weights(image, settings))
    model.eval()
    if FOLDING in parts:
        inputs = example(image, model, settings)
        model, _ = fold_batch_norms(model, lambda folded: folded(inputs, mode='tensor'))
    return model


def prepare(parts: tuple[str, ...], image: str, settings: Settings) -> Callable[[], Tensor]:
    """mmseg's own inference on the model with these parts; returns the label map (H, W)."""
    model = build_for_prediction(parts, image, settings)
    model.cfg = stock_config(settings)
    height, width = settings.crop
    model.cfg.test_pipeline[1].scale = (width, height)
    model.forward = settings.compiled(model.forward)

    def step() -> Tensor:
        with settings.autocast():
            return inference_model(model, image).pred_sem_seg.data[0].cpu()

    return step


def measure(settings: Settings) -> Iterator[Table]:
    """From file to label map with the parts of ours, and on a CPU logits in other runtimes."""
    yield measure_parts(settings)
    if settings.device == 'cpu' and settings.dtype == 'float32' and not settings.compile:
        yield measure_runtimes(settings)


def measure_runtimes(settings: Settings) -> Table:
    """PyTorch, ONNX Runtime and OpenVINO, each with stock's network and with ours."""
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder, 'image.png'))
        write_image(Path(image), settings.crop)
        build_with = partial(build_for_prediction, image=image, settings=settings)
        stock = build_with(())
        models = {runtimes.STOCK: stock, runtimes.OURS: build_with((HEAD, CHANNELS_LAST, FOLDING))}
        ours = build_with((HEAD, FOLDING))
        exported = {runtimes.STOCK: stock, runtimes.OURS: ours, runtimes.TILES: ours}
        inputs = example(image, stock, settings)
        return runtimes.measure(models, exported, inputs, settings)


def measure_parts(settings: Settings) -> Table:
    """Stock, then the parts added; the image has twice the network's input size."""
    last = f'+ {KEPT_MEMORY}'
    height, width = settings.crop
    network = NETWORKS[settings.model]
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder, 'image.png'))
        write_image(Path(image), (2 * height, 2 * width))
        preparations = {
            name: partial(prepare, parts, image, settings)
            for name, parts in cumulative(PARTS).items()
        }
        steps = {name: prepared() for name, prepared in preparations.items()}
        seconds = time_alternately(steps, settings, (last,))
        labels = {name: step() for name, step in steps.items()}
        memory = peak_memory(preparations, settings, (last,))
    return Table(
        title=(
            f'Prediction by {network.title} at {height} x {width}, image of {2 * height} x '
            f'{2 * width}'
        ),
        baselines=(Baseline('stock'), Baseline(ABOVE)),
        quantities=(
            Quantity(TIME, 's', seconds),
            Quantity('peak memory', 'bytes', memory),
            Quantity(LABELS, '%', {name: [share_equal(labels, name)] for name in labels}),
        ),
        wanted=(
            Wanted(TIME, last, 'stock', low=network.prediction),
            Wanted(LABELS, last, None, low=99.99),
        ),
    )


def share_equal(labels: dict[str, Tensor], name: str) -> float:
    """Percent of the pixels that have stock's label."""
    return 100 * (labels[name] == labels['stock']).double().mean().item()
