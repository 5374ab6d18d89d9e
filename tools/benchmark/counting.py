"""What a GPU is given by the decode heads, counted without one on tensors that have no values.

The least time that a GPU can take follows: each operation as long as its arithmetic at the peak
rate or its operands and results at the peak bandwidth, whichever is more, and a launch for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from rich import box
from rich.table import Table
from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from .heads import Build, Shapes, other_heads, psp_head

LAUNCH = 5e-6  # seconds
# Peak rate of dense half precision, FLOP/s, and bandwidth, bytes/s, by NVIDIA's data sheets of the
# T4, the A100 80 GB SXM and the H200 SXM.
GPUS = {'T4': (65e12, 320e9), 'A100': (312e12, 2039e9), 'H200': (989e12, 4.8e12)}


class Operation(NamedTuple):
    """A kernel: the bytes of its operands and results, and twice its multiply-adds."""

    bytes: int
    flops: int


class Operations(TorchDispatchMode):
    """Counts what writes memory, and refuses what takes tensors of several devices."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: list[Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [t for t in tree_flatten((args, kwargs, out))[0] if isinstance(t, Tensor)]
        if len({t.device for t in tensors if t.dim()}) > 1:
            raise RuntimeError(f'{name} takes tensors of several devices')
        aliases = [result.alias_info for result in func._schema.returns]
        is_view = any(alias and not alias.is_write for alias in aliases) or name == '_unsafe_view'
        if tensors and not is_view and 'empty' not in name:
            flops = flop_counter.flop_registry.get(getattr(torch.ops.aten, name.rstrip('_'), None))
            size = sum(t.numel() * t.element_size() for t in tensors)
            multiplied = flops(*args, **(kwargs or {}), out_val=out) if flops else 0
            self.counted.append(Operation(size, multiplied))
        return out


def operations(
    build: Build,
    shapes: Shapes,
    batch: int,
    dtype: torch.dtype = torch.float16,
    memory_format: torch.memory_format = torch.channels_last,
) -> list[Operation]:
    """Of forward and backward of a head in training, once what is kept by size is there."""
    if not hasattr(flop_counter, 'flop_registry'):
        raise RuntimeError(f'torch {torch.__version__} counts no multiply-adds: take a newer one')
    with torch.device('meta'):
        head = build().to(dtype=dtype, memory_format=memory_format).train()
        maps = [torch.empty(batch, *shape, dtype=dtype) for shape in shapes]
    maps = [each.to(memory_format=memory_format).requires_grad_() for each in maps]
    for _ in range(2):
        for tensor in (*maps, *head.parameters()):
            tensor.grad = None
        with Operations() as mode:
            logits = head(maps)
            logits.backward(torch.empty_like(logits))
    return mode.counted


def least_seconds(counted: Sequence[Operation], rate: float, bandwidth: float) -> float:
    return sum(max(each.bytes / bandwidth, each.flops / rate) + LAUNCH for each in counted)


def table_of_counts(markdown: bool) -> Table:
    """Kernels, traffic, arithmetic and least milliseconds of the heads on GPUs, without a GPU.

    Forward and backward in float16, channels-last, stock and ours.
    """
    table = Table('head', 'batch', box=box.MARKDOWN if markdown else box.HEAVY_HEAD)
    columns = 'kernels', 'MiB, elementwise', 'MiB, convolutions', 'G multiply-adds'
    for column in (*columns, *(f'{name}, ms' for name in GPUS)):
        table.add_column(column, justify='right')
    heads = {f'PSPHead, 2048 x 64 x {w}': (psp_head(2048, 19), [(2048, 64, w)]) for w in (128, 64)}
    for name, (builds, shapes) in {**heads, **other_heads((512, 512))}.items():
        for batch in (2, 8):
            each = (figures(operations(build, shapes, batch)) for build in builds.values())
            table.add_row(name, str(batch), *map(compared, *each))
    return table


def figures(counted: Sequence[Operation]) -> list[float]:
    """One for each column."""
    elementwise = sum(each.bytes for each in counted if not each.flops)
    others = sum(each.bytes for each in counted) - elementwise
    arithmetic = sum(each.flops for each in counted) / 2
    least = [1e3 * least_seconds(counted, *peaks) for peaks in GPUS.values()]
    return [len(counted), elementwise / 2**20, others / 2**20, arithmetic / 1e9, *least]


def compared(stock: float, ours: float) -> str:
    shown = (f'{n:,.0f}' if n >= 20 or n % 1 == 0 else f'{n:.2f}' for n in (stock, ours))
    return f'{" → ".join(shown)} ({stock / ours:.2f} x)'
