"""What a training run logged, for the tools that compare runs."""

from __future__ import annotations

import sys
from pathlib import Path

from pspnet_plugin.app.reports.run_log import LogError, read_run


def read_log(work_dir: Path) -> list[dict]:
    """The lines that the run in a work folder logged: of losses and, after validation, metrics."""
    try:
        return read_run(work_dir).lines
    except LogError as error:
        sys.exit(f'error: {error}')
