"""Loss and backward pass of both heads from their low-resolution logits."""

from __future__ import annotations

from functools import partial

import torch
from mmseg.models.decode_heads import FCNHead, PSPHead
from torch import Tensor

from pspnet_plugin.heads import FactorizedFCNHead, FactorizedPSPHead

from .inputs import label_maps
from .memory import peak_memory
from .settings import Settings
from .table import Baseline, Quantity, Table, Wanted
from .timing import Step, time_alternately

STRIDE = 8  # of the logits to the labels
HEADS = {'stock': (PSPHead, FCNHead), 'streamed': (FactorizedPSPHead, FactorizedFCNHead)}
LOSS_WEIGHTS = (1.0, 0.4)
TIME, MEMORY = 'loss + backward', 'peak memory'


def prepare(variant: str, settings: Settings) -> Step:
    """The losses of the decode and the auxiliary head, and the gradients of their logits."""
    # The step starts from logits, so the widths of the heads do not matter.
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
    samples = label_maps(settings, generator)

    def step() -> Tensor:
        with settings.autocast():
            values = [loss(of, samples)['loss_ce'] for loss, of in zip(losses, logits)]
        for of in logits:
            of.grad = None
        total = sum(values)
        total.backward()
        return total.detach()

    return step


def measure(settings: Settings) -> list[Table]:
    """One table: the stock loss and the streamed one."""
    preparations = {name: partial(prepare, name, settings) for name in HEADS}
    steps = {name: prepared() for name, prepared in preparations.items()}
    height, width = settings.crop
    return [
        Table(
            title=(
                f'Loss of both heads, {settings.classes} classes, {settings.batch} x {height} x '
                f'{width} from {height // STRIDE} x {width // STRIDE}'
            ),
            baselines=(Baseline('stock'),),
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
