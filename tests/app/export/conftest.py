"""Narrow PSPNets with stock's head and random weights, and a file of one for each runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from mmengine.config import Config

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.export import winograd
from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER
from pspnet_plugin.app.export.settings import SUFFIXES
from tests.helpers.exports import (
    HEAD,
    in_onnxruntime,
    in_openvino,
    in_pytorch,
    small_config,
    write_checkpoint,
)


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


def exported(config: Config, checkpoint: Path, folder: Path, to: str, *words: str) -> Exported:
    config.dump(folder / 'config.py')
    path = folder / f'labels{SUFFIXES[to]}'
    files = [str(folder / 'config.py'), str(checkpoint), '--out', str(path)]
    assert main(['export', *files, '--normalize', '--output', 'labels', '--to', to, *words]) == 0
    return Exported(config, checkpoint, path)


@pytest.fixture(scope='session')
def onnx_file(config, checkpoint, tmp_path_factory):
    return exported(config, checkpoint, tmp_path_factory.mktemp('onnx'), 'onnx')


@pytest.fixture(scope='session')
def openvino_file(config, checkpoint, tmp_path_factory):
    return exported(config, checkpoint, tmp_path_factory.mktemp('openvino'), 'openvino')


@pytest.fixture(scope='session')
def program(config, checkpoint, tmp_path_factory):
    if not HAS_DYNAMO_EXPORTER:
        pytest.skip('needs torch 2.7 or later')
    return exported(config, checkpoint, tmp_path_factory.mktemp('program'), 'torch-export')


@pytest.fixture(scope='session')
def winograd_file(street_scenes, tmp_path_factory):
    """The head's convolution and those of the last stage are by tiles."""
    head = {**HEAD, 'type': 'PSPHead', 'in_channels': 64, 'in_index': 3, 'channels': 64}
    config = small_config(data_root=street_scenes, decode_head=head)
    folder = tmp_path_factory.mktemp('tiles')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, 'FEWEST_CHANNELS', 64)
        checkpoint = write_checkpoint(config, folder / 'wide.pth')
        return exported(config, checkpoint, folder, 'onnx', '--winograd')


RUNS: dict[str, tuple[str, Callable]] = {
    'onnx': ('onnx_file', in_onnxruntime),
    'openvino': ('openvino_file', in_openvino),
    'torch-export': ('program', in_pytorch),
    'winograd in onnx': ('winograd_file', in_onnxruntime),
    'winograd in openvino': ('winograd_file', in_openvino),
}


@pytest.fixture(scope='session', params=RUNS)
def labels_of(request):
    """A file of each kind, and a function from images to what it gives for them."""
    fixture, run = RUNS[request.param]
    written = request.getfixturevalue(fixture)
    return written, lambda images: run(written.path, images)
