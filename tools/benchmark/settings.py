"""What a benchmark is asked for."""

from __future__ import annotations

import platform
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import torch
import torch._dynamo
from mmseg.utils import register_all_modules

Size = tuple[int, int]  # height and width in pixels
DTYPES = ('float32', 'tf32', 'float16', 'bfloat16')


@dataclass(frozen=True)
class Settings:
    """The options of the command line."""

    config: str = ''
    batch: int = 2
    channels: int = 2048
    classes: int = 19
    crop: Size = (512, 1024)
    sizes: tuple[Size, ...] = ()
    device: str = 'cpu'
    dtype: str = 'float32'
    channels_last: bool = False
    compile: bool = False
    threads: int = 1
    runs: int = 3

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == 'cuda'

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the feature maps."""
        return getattr(torch, self.dtype.replace('tf32', 'float32'))

    def autocast(self) -> AbstractContextManager:
        """Autocast to a 16-bit ``dtype``, otherwise nothing."""
        if self.torch_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=self.torch_dtype)

    def compiled(self, function: Any) -> Callable:
        """A function or module, compiled if that is asked for."""
        return torch.compile(function, dynamic=False) if self.compile else function

    def apply(self) -> None:
        """Set what mmseg and torch keep for the whole process."""
        register_all_modules()  # and makes mmseg the default scope, which its configs rely on
        torch.set_num_threads(self.threads)
        torch._dynamo.config.cache_size_limit = 256  # graphs; further ones would run uncompiled
        torch.backends.cudnn.benchmark = True  # as MMSegmentation's configs have it
        torch.backends.cudnn.allow_tf32 = self.dtype == 'tf32'
        torch.backends.cuda.matmul.allow_tf32 = self.dtype == 'tf32'
        if self.on_gpu:
            torch.cuda.set_device(self.device)

    def describe(self) -> str:
        """One line on machine, versions and method."""
        cpuinfo = Path('/proc/cpuinfo')
        found = cpuinfo.is_file() and re.search(r'model name\s*:\s*(.+)', cpuinfo.read_text())
        cpu = found.group(1) if found else platform.machine()
        layout = 'channels-last' if self.channels_last else 'contiguous'
        return (
            f'{torch.cuda.get_device_name() if self.on_gpu else cpu}; num_threads {self.threads}; '
            f'torch {torch.__version__}; {self.dtype}, {layout}, '
            f'{"compiled" if self.compile else "eager"}; {self.runs} turns.'
        )
