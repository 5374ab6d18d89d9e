"""What stops an export."""

from __future__ import annotations

from ...errors import PspnetPluginError
from ...utils.text import first_line


class ExportError(PspnetPluginError):
    """A network cannot be written in a format, or the written file computes something else."""


def first_cause(error: Exception) -> str:
    """What first went wrong, without the pages that exporters add."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error)[:200].rstrip('.')
