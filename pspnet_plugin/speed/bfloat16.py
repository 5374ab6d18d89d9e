"""How fast this machine's CPU computes in bfloat16, in words for a log."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path('/proc/cpuinfo')
# By Linux's name of the feature, the fastest first: matrix units, vector instructions, Arm's.
INSTRUCTIONS = {'amx_bf16': 'AMX', 'avx512_bf16': 'AVX512-BF16', 'bf16': 'BF16'}


def bfloat16_on_this_cpu() -> str:
    """A sentence: by which instructions bfloat16 is computed, or that it will be slow.

    It reads what Linux says of the CPU, because older versions of torch do not tell it.
    """
    known = cpu_features()
    if not known:
        return 'Whether this CPU has instructions for bfloat16 is not known here.'
    for feature, name in INSTRUCTIONS.items():
        if feature in known:
            return f'This CPU computes bfloat16 by {name}.'
    return 'This CPU has neither AMX nor AVX512-BF16: bfloat16 will be slow.'


def cpu_features() -> set[str]:
    """The features that Linux lists of the first CPU; none on other systems."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, features = line.partition(':')
        if name.strip() in ('flags', 'Features'):
            return set(features.split())
    return set()
