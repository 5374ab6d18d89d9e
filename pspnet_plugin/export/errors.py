"""What stops an export."""

from __future__ import annotations

from ..errors import PspnetPluginError


class ExportError(PspnetPluginError):
    """A network cannot be written in a format, or the written file computes something else."""
