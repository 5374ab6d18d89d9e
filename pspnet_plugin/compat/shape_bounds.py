"""The exporter of PyTorch, for networks whose image size is open.

Wrong: it asks thousands of times which values an expression such as the width of a feature map can
have. The expressions of a deep network are long, few of them differ, and PyTorch (2.7 to 2.15)
works out each answer anew: half of the time of an export.

Changed, within :func:`bounds_kept` only, while a file is exported: each answer is kept.

Unnecessary once PyTorch keeps them itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator
from typing import Any
from unittest import mock

from torch.utils._sympy import value_ranges

NAME = 'sympy_interp'  # bounds of an expression from those of its symbols, in bound_sympy


@contextlib.contextmanager
def bounds_kept() -> Iterator[None]:
    """Within this context the bounds of an expression are kept with those of its symbols."""
    stock = getattr(value_ranges, NAME, None)
    if stock is None:  # another version of PyTorch has another name for it
        yield
        return
    kept: dict[Hashable, Any] = {}

    def interpret(analysis: Any, bounds: dict, expression: Any, **options: Any) -> Any:
        key = (analysis, expression, frozenset(bounds.items()), frozenset(options.items()))
        if key not in kept:
            kept[key] = stock(analysis, bounds, expression, **options)
        return kept[key]

    with mock.patch.object(value_ranges, NAME, interpret):
        yield
