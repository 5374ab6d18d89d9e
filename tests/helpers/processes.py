"""Python scripts, in a process of their own as a user starts them, or in the test's."""

from __future__ import annotations

import importlib.util
import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

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
        preexec_fn=heed_ctrl_c if os.name == 'posix' else None,
        **options,
    )


def heed_ctrl_c() -> None:
    """As in a terminal: what a shell starts in the background ignores Ctrl-C, with all below it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_python(*arguments: object, cwd: Path | None = None) -> tuple[int, str]:
    """Run a Python process to its end: its exit code, and all that it printed."""
    process = start_python(*arguments, cwd=cwd)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


def run_script(script: Path, *arguments: object) -> int | str | None:
    """Run a script as ``python SCRIPT ...`` would, in this process: what it hands to ``sys.exit``.

    Nothing has to be imported again, which takes a process of its own several seconds.
    """
    argv, path = [str(script), *map(str, arguments)], [str(script.parent), *sys.path]
    # patch.dict undoes what the script changes in the environment.
    with mock.patch.multiple(sys, argv=argv, path=path), mock.patch.dict(os.environ):
        try:
            runpy.run_path(str(script), run_name='__main__')
        except SystemExit as ended:
            return ended.code
    return 0


def load_script(script: Path) -> ModuleType:
    """A script as a module, for its functions."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
