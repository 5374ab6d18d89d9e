"""Makes the package ``tools/benchmark`` importable, as ``pspnet benchmark`` does."""

import sys

import pytest
from mmseg.utils import register_all_modules

from tests.helpers.processes import ROOT

# At the end: before the standard library, tools/test.py would hide the module ``test``.
sys.path.append(str(ROOT / 'tools'))


@pytest.fixture(autouse=True)
def _stock_classes():
    """The names of mmseg's classes, as the command registers them."""
    register_all_modules()
