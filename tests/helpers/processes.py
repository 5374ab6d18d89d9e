"""Python scripts, in a process of their own as a user starts them, or in the test's."""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing.connection
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch

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


@functools.cache
def _copies() -> BaseContext:
    """Makes copies of a process that has imported all, and never computed anything."""
    context = multiprocessing.get_context('forkserver')  # which Windows has not
    context.set_forkserver_preload(
        ['mmseg.apis', 'pspnet_plugin.app.training.launch', 'tests.helpers.processes']
    )
    # A test may have changed the current folder, where these tests are not found.
    with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT)):
        forkserver.ensure_running()
    return context


def start_copy(
    call: Callable[..., object], *arguments: object, output: Path, **variables: object
) -> BaseProcess:
    """Start a process that calls and prints into a file, without the seconds that imports take.

    Args:
        call: a function at the top of a module; its arguments and itself are pickled.
        variables: more of the environment.
    """
    more = {name: str(value) for name, value in variables.items()}
    environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': '', **more}
    where = output, os.getcwd(), environment
    process = _copies().Process(target=_in_copy, args=(call, arguments, *where))
    process.start()
    return process


def _in_copy(call, arguments, output: Path, folder: str, environment: dict[str, str]) -> None:
    torch.set_num_threads(1)
    for descriptor in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdout = sys.stderr = open(1, 'w', buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(call(*arguments))


def run_copy(
    call: Callable[..., object], *arguments: object, folder: Path, **variables: object
) -> tuple[int, str]:
    """Call in such a process: its exit code, and all that it printed."""
    output = folder / 'printed.txt'
    output.write_text('')
    process = start_copy(call, *arguments, output=output, **variables)
    process.join(300)
    process.kill()
    process.join()
    return process.exitcode, output.read_text()


def torchrun_variables(rank: int, port: int) -> dict[str, object]:
    """What torchrun tells each of two processes."""
    numbers = {'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': 2, 'LOCAL_WORLD_SIZE': 2}
    return {**numbers, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}


def run_two(
    call: Callable[..., object],
    *arguments: object,
    folder: Path,
    variables: Callable[[int, int], dict[str, object]] = torchrun_variables,
) -> tuple[int, str]:
    """Call in two processes as torchrun numbers them: the code of a failure, and what they print.

    Where one fails, the other is killed, as torchrun does.
    """
    port, output = free_port(), folder / 'printed.txt'
    output.write_text('')
    running = [
        start_copy(call, *arguments, output=output, **variables(rank, port)) for rank in range(2)
    ]
    codes = []
    while running and not any(codes):
        ready = multiprocessing.connection.wait([p.sentinel for p in running], timeout=300)
        for process in [p for p in running if p.sentinel in ready]:
            process.join()
            running.remove(process)
            codes.append(process.exitcode)
        if not ready:
            codes.append('no end after five minutes')
    for process in running:
        process.join(5)
        process.kill()
    return next((code for code in codes if code), 0), output.read_text()


def load_script(script: Path) -> ModuleType:
    """A script as a module, for its functions."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
