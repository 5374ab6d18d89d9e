"""The console command writes a program of torch.export that gives mmseg's labels."""

import json

import pytest
import torch

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER
from tests.helpers.exports import CLASSES, as_input, pixels, stock_labels

pytestmark = pytest.mark.skipif(not HAS_DYNAMO_EXPORTER, reason='needs torch 2.7 or later')


@pytest.fixture(scope='module')
def program(config, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp('program')
    config.dump(folder / 'config.py')
    path = folder / 'labels.pt2'
    words = [str(folder / 'config.py'), str(checkpoint), '--out', str(path), '--to', 'torch-export']
    assert main(['export', *words, '--normalize', '--output', 'labels']) == 0
    return path


@pytest.mark.parametrize(('size', 'batch'), [((250, 330), 2), ((161, 203), 3), ((40, 56), 1)])
def test_labels_are_those_of_mmseg_at_any_size_and_batch(config, checkpoint, program, size, batch):
    images = pixels(size, batch)
    labels = torch.export.load(program).module()(torch.from_numpy(as_input(images))).numpy()
    expected = stock_labels(config, checkpoint, images)
    assert labels.shape == expected.shape
    assert (labels == expected).mean() >= 0.999


def test_the_file_says_what_it_means(program):
    extra = {'metadata.json': ''}
    torch.export.load(program, extra_files=extra)
    assert json.loads(json.loads(extra['metadata.json'])['classes']) == list(CLASSES)
