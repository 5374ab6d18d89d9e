"""Images that are normalized otherwise than the weights expect are noted."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
from mmseg.models import SegDataPreProcessor
from torchvision.models import ResNet50_Weights

from pspnet_plugin.app.commands import main
from pspnet_plugin.pretrained.source.schemes import SCHEMES
from tests.helpers.networks import NARROW_RESNET, build, saved
from tests.helpers.pretrained_runs import Net, make_runner
from tests.helpers.stack import skip_unless_normalized


def pixels_of(reference: str) -> dict:
    """What the library that publishes the weights says of their images, as mmseg's settings."""
    if reference.startswith('torchvision'):
        preset = ResNet50_Weights.IMAGENET1K_V1.transforms()
    else:
        preset = timm.get_pretrained_cfg(reference.split('/')[-1])
    mean, std = ([255 * value for value in values] for values in (preset.mean, preset.std))
    return {'mean': mean, 'std': std, 'bgr_to_rgb': True}


HALF = {'mean': [127.0] * 3, 'std': [128.0] * 3}
IMAGENET = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375]}
NEITHER = {'mean': None, 'std': None}
REFERENCES = [
    'timm://tf_efficientnet_lite0.in1k',
    'timm://vit_base_patch16_clip_224.openai',
    'timm://resnet50.a1_in1k',
    'torchvision://resnet50',
]


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A narrow model whose weights all references lead to."""
    file = Path(saved(build(**NARROW_RESNET), tmp_path / 'weights.pth'))
    for scheme in ('timm', 'torchvision'):
        monkeypatch.setitem(SCHEMES, scheme, lambda rest: file)
    # The lookalikes go by the name of the architecture; the question here is its pixels.
    monkeypatch.setattr('pspnet_plugin.pretrained.load.judge', lambda *_: (None, []))
    return lambda reference: Net({'type': 'PretrainedBackbone', 'checkpoint': reference})


@pytest.mark.parametrize('reference', REFERENCES)
@pytest.mark.parametrize('changed', [{}, {'bgr_to_rgb': False}, HALF, IMAGENET, NEITHER])
def test_a_run_notes_other_pixels_than_the_library_says(tmp_path, model, reference, changed):
    expected = pixels_of(reference)
    settings = {**expected, **changed}
    net = model(reference)
    net.data_preprocessor = SegDataPreProcessor(**settings)
    make_runner(tmp_path, model=net)._init_model_weights()
    notes = [note for note in net.backbone.pretrained_report.notes if 'expect images' in note]
    close = settings['mean'] and all(
        abs(a - b) < 3 for key in ('mean', 'std') for a, b in zip(settings[key], expected[key])
    )
    assert bool(notes) != bool(close and settings['bgr_to_rgb'])


def test_images_of_other_channels_than_rgb_have_no_pixels_to_expect(tmp_path, model):
    skip_unless_normalized(4)
    net = model('torchvision://resnet18')
    backbone = {**NARROW_RESNET, 'in_channels': 4}
    net.backbone = build(**backbone, init_cfg=net.backbone.init_cfg)
    net.data_preprocessor = SegDataPreProcessor(mean=[127.0] * 4, std=[128.0] * 4)
    make_runner(tmp_path, model=net)._init_model_weights()
    assert not net.backbone.pretrained_report.notes


def test_images_of_other_units_have_no_pixels_to_expect(tmp_path, model):
    net = model('torchvision://resnet18')
    net.data_preprocessor = SegDataPreProcessor(mean=[9000.0] * 3, std=[2000.0] * 3)
    make_runner(tmp_path, model=net)._init_model_weights()
    assert not net.backbone.pretrained_report.notes


def test_inspect_notes_them_too(tmp_path, capsys, monkeypatch):
    backbone = {**NARROW_RESNET, 'init_cfg': None}
    file = Path(saved(build(**backbone), tmp_path / 'weights.pth'))
    monkeypatch.setitem(SCHEMES, 'torchvision', lambda rest: file)
    config = tmp_path / 'config.py'
    head = {'type': 'FCNHead', 'in_channels': 8, 'channels': 8, 'num_classes': 2}
    pixels = {'type': 'SegDataPreProcessor', **HALF, 'bgr_to_rgb': True}
    model = {'type': 'EncoderDecoder', 'backbone': backbone, 'decode_head': head}
    config.write_text(f'model = { ({**model, "data_preprocessor": pixels})!r}\n')
    assert main(['inspect', str(config), '--checkpoint', 'torchvision://resnet18']) == 0
    printed = capsys.readouterr().out
    assert 'note: these weights expect images with mean=[123.67, 116.28, 103.53]' in printed
    assert 'it has mean=[127.0, 127.0, 127.0], std=[128.0, 128.0, 128.0] and bgr' in printed
