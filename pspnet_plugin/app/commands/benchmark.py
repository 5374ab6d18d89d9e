"""``pspnet benchmark``: the benchmarks in ``tools/``, which travel with the package."""

from __future__ import annotations

import importlib
import sys

from ..training.tools import OWN_TOOLS


def run_benchmark(argv: list[str]) -> int:
    sys.path.insert(0, str(OWN_TOOLS))  # as Python does for a script
    try:
        return importlib.import_module('benchmark.command').main(argv)
    finally:
        sys.path.remove(str(OWN_TOOLS))
