"""What a benchmark is asked for, and the random inputs that follow, the same in each run."""

from __future__ import annotations

import platform
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import torch
import torch._dynamo
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import Tensor

Size = tuple[int, int]  # height and width in pixels
BLOCK = 16  # pixels a side that share a label
IGNORED = 255
DTYPES = ('float32', 'tf32', 'float16', 'bfloat16')


@dataclass(frozen=True)
class Settings:
    """The options of the command line; those that it does not set are those of GPUs."""

    config: str = ''
    batch: int = 2
    channels: int = 2048
    classes: int = 19
    crop: Size = (512, 1024)
    sizes: tuple[Size, ...] = ((64, 128),)
    device: str = 'cpu'
    dtype: str = 'float32'
    channels_last: bool = False
    compile: bool = False
    runs: int = 1

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def on_gpu(self) -> bool:
        return self.device == 'cuda'

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the feature maps."""
        return getattr(torch, self.dtype.replace('tf32', 'float32'))

    def autocast(self) -> AbstractContextManager:
        """Autocast to a 16-bit ``dtype``, otherwise nothing."""
        if self.torch_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device, dtype=self.torch_dtype)

    def compiled(self, function: Any) -> Callable:
        """A function or module, compiled if that is asked for."""
        return torch.compile(function, dynamic=False) if self.compile else function

    def apply(self) -> None:
        """Set what mmseg and torch keep for the whole process."""
        register_all_modules()  # and makes mmseg the default scope, which its configs rely on
        torch._dynamo.config.cache_size_limit = 256  # graphs; further ones would run uncompiled
        torch.backends.cudnn.benchmark = True  # as MMSegmentation's configs have it
        torch.backends.cudnn.allow_tf32 = self.dtype == 'tf32'
        torch.backends.cuda.matmul.allow_tf32 = self.dtype == 'tf32'

    @property
    def how(self) -> str:
        """Precision, memory format, and whether it is compiled."""
        layout = 'channels-last' if self.channels_last else 'contiguous'
        return f'{self.dtype}, {layout}, {"compiled" if self.compile else "eager"}'

    def describe(self) -> str:
        """One line on machine, versions and method."""
        cpuinfo = Path('/proc/cpuinfo')
        found = cpuinfo.is_file() and re.search(r'model name\s*:\s*(.+)', cpuinfo.read_text())
        cpu = found.group(1) if found else platform.machine()
        return (
            f'{torch.cuda.get_device_name() if self.on_gpu else cpu}; '
            f'num_threads {torch.get_num_threads()}; torch {torch.__version__}; {self.how}; '
            f'{self.runs} turns.'
        )


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
