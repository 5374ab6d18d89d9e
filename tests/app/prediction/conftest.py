"""A small network that predicts every size as it is."""

import functools
import http.server
import threading

import pytest

from pspnet_plugin.app.models import init_model
from tests.helpers.prediction import random_checkpoint, small_config
from tests.helpers.processes import ROOT


@pytest.fixture(scope='package')
def plain_config():
    """Its test pipeline changes no size."""
    cfg = small_config(ROOT / 'configs' / 'psp_r18_cityscapes.py')
    cfg.test_pipeline = [step for step in cfg.test_pipeline if step.type != 'Resize']
    cfg.test_dataloader.dataset.pipeline = cfg.test_pipeline
    return cfg


@pytest.fixture(scope='package')
def plain_checkpoint(plain_config, tmp_path_factory):
    return random_checkpoint(plain_config, tmp_path_factory.mktemp('plain') / 'random.pth')


@pytest.fixture(scope='package')
def plain_model(plain_config, plain_checkpoint):
    return init_model(plain_config, plain_checkpoint, device='cpu')


@pytest.fixture
def address(tmp_path):
    """That of a server on this machine for the files in ``tmp_path``."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
