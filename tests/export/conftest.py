"""A narrow PSPNet with stock's head, and what it predicts in mmseg."""

from __future__ import annotations

import pytest

from tests.helpers.exports import small_config, write_checkpoint


@pytest.fixture(scope='session')
def config(street_scenes):
    return small_config(data_root=street_scenes)


@pytest.fixture(scope='session')
def checkpoint(config, tmp_path_factory):
    return write_checkpoint(config, tmp_path_factory.mktemp('checkpoint') / 'narrow.pth')
