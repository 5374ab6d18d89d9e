"""What a run of the benchmark was asked for, and the words for it above its tables."""

from __future__ import annotations

import platform
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
import torch._dynamo


@dataclass(frozen=True)
class Settings:
    """The options of the command line; sizes are (height, width) in pixels."""

    device: str = 'cpu'
    dtype: str = 'float32'
    compile: bool = False
    threads: int = 1
    runs: int = 5
    model: str = 'pspnet_r50'
    batch: int = 2
    channels: int = 2048
    classes: int = 19
    crop: tuple[int, int] = (512, 1024)
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype that convolutions compute in."""
        return getattr(torch, self.dtype)

    def autocast(self) -> AbstractContextManager:
        """The context for a forward pass: autocast to ``dtype``, or nothing for float32."""
        enabled = self.torch_dtype != torch.float32
        dtype = self.torch_dtype if enabled else torch.bfloat16
        return torch.autocast(torch.device(self.device).type, dtype=dtype, enabled=enabled)

    def compiled(self, function: Callable) -> Callable:
        """``function`` or module, compiled if the settings say so."""
        if not self.compile:
            return function
        # Every variant and size is a network of its own; at the default limit the later ones would
        # silently run without being compiled.
        torch._dynamo.config.cache_size_limit = 256
        return torch.compile(function, dynamic=False)

    def describe(self) -> str:
        """One line on machine, versions and method."""
        kind = 'compiled' if self.compile else 'eager'
        precision = 'float32' if self.dtype == 'float32' else f'{self.dtype} under autocast'
        return (
            f'{_device_name(self.device, self.threads)}; torch {torch.__version__}; {precision}; '
            f'{kind}; medians of {self.runs} alternating runs.'
        )


def _device_name(device: str, threads: int) -> str:
    if torch.device(device).type == 'cuda':
        return torch.cuda.get_device_name(device)
    cpuinfo = Path('/proc/cpuinfo')
    named = cpuinfo.is_file() and re.search(r'model name\s*:\s*(.+)', cpuinfo.read_text())
    name = named.group(1) if named else platform.processor() or platform.machine()
    return f'CPU {name}, {threads} thread{"s" if threads > 1 else ""}'
