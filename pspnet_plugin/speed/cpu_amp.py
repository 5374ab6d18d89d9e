"""Mixed precision without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """mmengine's ``AmpOptimWrapper`` for CPUs: bfloat16, whose range needs no loss scale."""

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass under autocast."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


def bfloat16_on_this_cpu() -> str:
    """A sentence for the log: how bfloat16 is computed here, as far as this torch tells."""
    capabilities: dict = getattr(torch.cpu, 'get_capabilities', dict)()  # none in older torch
    if not capabilities:
        return 'Whether this CPU has instructions for bfloat16 is not known here.'
    # The fastest first: matrix units, vector instructions, Arm's.
    known = {'amx_bf16': 'AMX', 'avx512_bf16': 'AVX512-BF16', 'bf16': 'BF16'}
    for name, shown in known.items():
        if capabilities.get(name):
            return f'This CPU computes bfloat16 by {shown}.'
    return 'This CPU has neither AMX nor AVX512-BF16: bfloat16 will be slow.'
