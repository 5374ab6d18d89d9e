"""What a training run logged, for the tools that compare runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def read_log(work_dir: Path) -> list[dict]:
    """The lines of the newest run in a work folder: of losses and, after validation, of metrics."""
    logs = list(work_dir.glob('*/vis_data/scalars.json'))
    if not logs:
        sys.exit(
            f'error: {work_dir} holds no */vis_data/scalars.json: no run of train.py wrote here'
        )
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    lines = [json.loads(line) for line in newest.read_text(encoding='utf-8').splitlines()]
    if not any('loss' in line for line in lines):
        sys.exit(f'error: {newest} has no line with a loss')
    return lines
