"""Random inputs of the benchmarks, the same in each run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from .settings import Settings, Size

BLOCK = 16  # pixels a side that share a label
IGNORED = 255


def feature_map(shape: tuple[int, ...], settings: Settings, seed: int = 0) -> Tensor:
    """What a layer would give: (batch, *shape), in the dtype and memory format of the settings."""
    x = torch.randn(settings.batch, *shape, generator=torch.Generator().manual_seed(seed))
    return x.to(settings.device, settings.torch_dtype).contiguous(
        memory_format=settings.memory_format
    )


def label_maps(classes: int, settings: Settings) -> list[SegDataSample]:
    """A label map for each crop of the batch: blocks of random classes, the top rows ignored."""
    height, width = settings.crop
    blocks = settings.batch, 1, height // BLOCK + 1, width // BLOCK + 1
    labels = torch.randint(classes, blocks, generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[..., :height, :width]
    labels[..., : height // 16, :] = IGNORED
    return [SegDataSample(gt_sem_seg=PixelData(data=each)) for each in labels.to(settings.device)]


def noise(size: Size, batch: int = 1) -> Tensor:
    """Normalized images, (batch, 3, H, W), with structure at every scale."""
    generator = torch.Generator().manual_seed(0)
    cells = [2**n for n in range(1, min(size).bit_length() - 1)]
    scales = [torch.randn(batch, 3, n, 2 * n, generator=generator) / n**0.5 for n in cells]
    pixels = torch.stack([F.interpolate(each, size, mode='bicubic') for each in scales]).sum(0)
    return pixels / pixels.std()
