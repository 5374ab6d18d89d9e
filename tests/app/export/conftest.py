"""A narrow PSPNet with stock's head and random weights, and a file of it for each runtime."""

from __future__ import annotations

import pytest

from pspnet_plugin.app.export import ExportSettings, export_model
from tests.helpers.exports import small_config, write_checkpoint


@pytest.fixture(scope='session')
def config(street_scenes):
    return small_config(data_root=street_scenes)


@pytest.fixture(scope='session')
def checkpoint(config, tmp_path_factory):
    return write_checkpoint(config, tmp_path_factory.mktemp('checkpoint') / 'narrow.pth')


@pytest.fixture(scope='module')
def label_file(config, checkpoint, tmp_path_factory, request):
    """Pixels to labels, of any size, in the format that the test module names as FORMAT."""
    name = f'labels{request.module.SUFFIX}'
    settings = ExportSettings(to=request.module.FORMAT, normalize=True, output='labels')
    path = tmp_path_factory.mktemp('files') / name
    report = export_model(config, checkpoint, path, settings)
    assert report.checked_on == 'the validation set'
    assert report.other_labels <= 0.001
    return path
