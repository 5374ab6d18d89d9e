"""A folder of its own for a test, and what ``pspnet init`` refuses there."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from pspnet_plugin.app.commands import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture) -> Callable[..., None]:
    """Runs ``pspnet init``, which has to write nothing but one line: where, and what is wrong."""

    def run(*words: str, where: str, told: str) -> None:
        assert main(['init', *words, '--out', 'mine']) == 1
        error = capsys.readouterr().err
        assert error.startswith(f'error: {where}')
        assert told in error
        assert error.count('\n') == 1
        assert not Path('mine').exists()

    return run
