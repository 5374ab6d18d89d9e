"""What a function leaves allocated on a CPU, seen by PyTorch's allocator."""

from __future__ import annotations

from typing import Callable

from torch.profiler import ProfilerActivity, profile


def bytes_left(function: Callable[[], object]) -> int:
    """Bytes that are allocated while ``function`` runs and live as long as what it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = function()
    del result
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages())
