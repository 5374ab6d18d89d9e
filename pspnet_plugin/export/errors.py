"""What stops an export."""

from __future__ import annotations

from ..errors import PspnetPluginError


class ExportError(PspnetPluginError):
    """A network cannot be written in a format, or the written file computes something else."""


def one_line(error: Exception) -> str:
    """What first went wrong, without the pages that exporters add."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip('.')
