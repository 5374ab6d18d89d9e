"""Loss and backward pass of both heads from their low-resolution logits."""

from __future__ import annotations

from functools import partial

import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead, PSPHead
from mmseg.structures import SegDataSample

from pspnet_plugin.heads import FactorizedPSPHead, StreamedFCNHead

from .measuring import Step, peak_memory, time_alternately
from .settings import Settings
from .table import Beside, Quantity, Table, Wanted

STRIDE = 8  # of the logits to the labels
BLOCK = 32  # pixels a side that share a label
IGNORED = 255
HEADS = {'stock': (PSPHead, FCNHead), 'streamed': (FactorizedPSPHead, StreamedFCNHead)}
LOSS_WEIGHTS = (1.0, 0.4)
TIME, MEMORY = 'loss + backward', 'peak memory'


def prepare(variant: str, settings: Settings) -> Step:
    """The losses of the decode and the auxiliary head, and the gradients of their logits."""
    # The logits are given, so the widths of the heads do not matter.
    size = {'in_channels': 1, 'channels': 1, 'num_classes': settings.classes}
    losses = [
        settings.compiled(
            head(**size, loss_decode={'type': 'CrossEntropyLoss', 'loss_weight': weight})
            .to(settings.device)
            .loss_by_feat
        )
        for head, weight in zip(HEADS[variant], LOSS_WEIGHTS)
    ]
    generator = torch.Generator().manual_seed(0)
    height, width = (side // STRIDE for side in settings.crop)
    shape = (settings.batch, settings.classes, height, width)
    logits = [
        (3 * torch.randn(shape, generator=generator))
        .to(settings.device, settings.torch_dtype)
        .requires_grad_()
        for _ in losses
    ]
    samples = random_samples(settings, generator)

    def step() -> None:
        with settings.autocast():
            values = [loss(of, samples)['loss_ce'] for loss, of in zip(losses, logits)]
        for of in logits:
            of.grad = None
        sum(values).backward()

    return step


def random_samples(settings: Settings, generator: torch.Generator) -> list[SegDataSample]:
    """Label maps of blocks of random classes, with an ignored edge."""
    height, width = settings.crop
    blocks = (settings.batch, 1, *(-(-side // BLOCK) for side in settings.crop))
    labels = torch.randint(settings.classes, blocks, generator=generator)
    labels = labels.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
    labels = labels[..., :height, :width].clone()
    labels[..., : height // 16, :] = IGNORED
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels.to(settings.device)]


def measure(settings: Settings) -> list[Table]:
    """Stock beside streamed."""
    preparations = {name: partial(prepare, name, settings) for name in HEADS}
    steps = {name: prepared() for name, prepared in preparations.items()}
    height, width = settings.crop
    return [
        Table(
            title=(
                f'Loss of both heads, {settings.classes} classes, {settings.batch} x {height} x '
                f'{width} from {height // STRIDE} x {width // STRIDE}'
            ),
            beside=(Beside('stock'),),
            quantities=(
                Quantity(TIME, 's', time_alternately(steps, settings)),
                Quantity(MEMORY, 'bytes', peak_memory(preparations, settings)),
            ),
            wanted=(
                Wanted(TIME, 'streamed', 'stock', low=1),
                Wanted(MEMORY, 'streamed', 'stock', high=0.25),
            ),
        )
    ]
