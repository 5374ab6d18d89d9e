"""Narrow PSPNets with stock's head and random weights, and a file of one for each runtime."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from mmengine.config import Config

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.export import winograd
from pspnet_plugin.app.export.settings import SUFFIXES
from tests.helpers.exports import HEAD, small_config, write_checkpoint


class Exported(NamedTuple):
    """A file from pixels to labels, of any size."""

    config: Config
    checkpoint: Path
    path: Path


@pytest.fixture(scope='session')
def config(street_scenes):
    return small_config(data_root=street_scenes)


@pytest.fixture(scope='session')
def checkpoint(config, tmp_path_factory):
    return write_checkpoint(config, tmp_path_factory.mktemp('checkpoint') / 'narrow.pth')


def exported(
    config: Config, checkpoint: Path, folder: Path, to: str, *words: str, output: str = 'labels'
) -> Exported:
    config.dump(folder / 'config.py')
    path = folder / f'labels{SUFFIXES[to]}'
    files = [str(folder / 'config.py'), str(checkpoint), '--out', str(path)]
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert main(['export', *files, '--normalize', '--output', output, '--to', to, *words]) == 0
    shown = re.search(r'^next: +python (\S+) \S+ IMAGE labels.png$', told.getvalue(), re.M)
    assert Path(shown.group(1)).is_file() if shown else to == 'torch-export'
    return Exported(config, checkpoint, path)


@pytest.fixture(scope='session')
def files(config, checkpoint, street_scenes, tmp_path_factory):
    """The file of a format, or of ``onnx probabilities``; ``winograd`` convolves by tiles."""

    @functools.cache
    def file_of(name: str) -> Exported:
        folder = tmp_path_factory.mktemp('files')
        if name != 'winograd':
            to, _, output = name.partition(' ')
            return exported(config, checkpoint, folder, to, output=output or 'labels')
        head = {**HEAD, 'type': 'PSPHead', 'in_channels': 64, 'in_index': 3, 'channels': 64}
        wide = small_config(data_root=street_scenes, decode_head=head)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(winograd, 'FEWEST_CHANNELS', 64)
            weights = write_checkpoint(wide, folder / 'wide.pth')
            return exported(wide, weights, folder, 'onnx', '--winograd')

    return file_of
