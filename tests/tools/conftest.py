"""Fixtures of the tools' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.processes import ROOT, load_script


@pytest.fixture(scope='session')
def bluemarble(tmp_path_factory) -> Path:
    """The whole Blue Marble dataset."""
    folder = tmp_path_factory.mktemp('data') / 'bluemarble'
    load_script(ROOT / 'tools' / 'datasets' / 'prepare_bluemarble.py').prepare(folder)
    return folder
