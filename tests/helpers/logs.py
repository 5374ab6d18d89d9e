"""Logs of training runs, as mmengine's local backend writes them."""

from __future__ import annotations

import json
from pathlib import Path


def write_log(
    work_dir: Path,
    losses: dict[int, float],
    scores: dict[int, float] | None = None,
    start: str = '20260101_000000',
    config: Path | None = None,
    end: str = '',
) -> Path:
    """Write the log of one start of a run: losses and mIoU by iteration, and then ``end``."""
    folder = work_dir / start / 'vis_data'
    folder.mkdir(parents=True)
    lines = [
        {'lr': 0.01 / step, 'loss': loss, 'iter': step, 'step': step}
        for step, loss in losses.items()
    ]
    lines += [{'mIoU': score, 'step': step} for step, score in (scores or {}).items()]
    lines.sort(key=lambda line: line['step'])
    text = ''.join(f'{json.dumps(line)}\n' for line in lines)
    (folder / 'scalars.json').write_text(text + end)
    if config is not None:
        (folder / 'config.py').write_text(config.read_text())
    return work_dir
