"""Which packages of OpenMMLab, or of their forks, are installed."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest


def is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


# mmseg has no compiled operators, which its fork onedl-mmsegmentation can be imported without.
LACKS_OPERATORS = importlib.util.find_spec('mmcv._ext') is None and is_installed('mmsegmentation')


def skip_unless_normalized(channels: int) -> None:
    """Skip the test where mmengine's preprocessor has no mean for each of so many channels."""
    if channels not in (1, 3) and is_installed('onedl-mmengine'):
        pytest.skip('onedl-mmengine takes one mean or three')
