"""Python processes as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start_python(*arguments: object, cwd: Path | None = None, **options) -> subprocess.Popen:
    """Start a Python process as a user would from a shell, with its output as text."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=cwd or ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
        **options,
    )


def run_python(*arguments: object, cwd: Path | None = None) -> tuple[int, str]:
    """Run a Python process to its end: its exit code, and all that it printed."""
    process = start_python(*arguments, cwd=cwd)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output
