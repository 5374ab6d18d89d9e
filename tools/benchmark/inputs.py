"""Random inputs of the benchmarks, the same in each run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor

from .settings import Settings

BLOCK = 32  # pixels a side that share a label
IGNORED = 255
FORMATS = {'contiguous': torch.contiguous_format, 'channels-last': torch.channels_last}


def feature_map(size: tuple[int, int], settings: Settings, channels: int | None = None) -> Tensor:
    """What a backbone would give: (batch, channels, H, W), not negative."""
    generator = torch.Generator().manual_seed(0)
    shape = settings.batch, channels or settings.channels, *size
    x = torch.randn(shape, generator=generator).relu()
    return x.to(settings.device, settings.torch_dtype)


def training_batch(settings: Settings) -> dict[str, list]:
    """A batch as mmseg's data loaders give it: crops, uint8 (3, H, W), and their label maps."""
    generator = torch.Generator().manual_seed(0)
    crops = [
        torch.randint(256, (3, *settings.crop), dtype=torch.uint8, generator=generator)
        for _ in range(settings.batch)
    ]
    return {'inputs': crops, 'data_samples': label_maps(settings, generator)}


def label_maps(settings: Settings, generator: torch.Generator) -> list[SegDataSample]:
    """A label map for each crop of the batch: blocks of random classes, the top rows ignored."""
    height, width = settings.crop
    blocks = (settings.batch, 1, *(-(-side // BLOCK) for side in settings.crop))
    labels = torch.randint(settings.classes, blocks, generator=generator)
    labels = labels.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)
    labels = labels[..., :height, :width].clone()
    labels[..., : height // 16, :] = IGNORED
    return [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels.to(settings.device)]


def write_image(path: Path, size: tuple[int, int]) -> None:
    """Write an RGB image of (H, W) pixels with structure at every scale."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.zeros(1, 3, *size)
    cells = 2
    while cells <= min(size) // 4:
        noise = torch.randn(1, 3, cells, 2 * cells, generator=generator)
        pixels += F.interpolate(noise, size=size, mode='bicubic') / cells**0.5
        cells *= 2
    pixels = (128 + 60 * pixels[0] / pixels.std()).clamp(0, 255).permute(1, 2, 0)
    Image.fromarray(pixels.numpy().astype(np.uint8)).save(path)
