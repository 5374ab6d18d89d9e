"""Networks of the same names and shapes are told apart, and the right one gives their features."""

from __future__ import annotations

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from pspnet_plugin.pretrained.source.schemes import SCHEMES
from tests.helpers.networks import (
    RESNET50_D8,
    build,
    content_of,
    difference,
    empty,
    features_of,
    image,
    outputs_of,
    randomized,
    saved,
)


def timm_backbone(name: str, **options):
    return build(type='TIMMBackbone', model_name=name, pretrained=False, **options)


@pytest.fixture
def served(monkeypatch):
    """Let the references of two schemes lead to one file, as their servers would."""

    def serve(file: str) -> None:
        for scheme in ('timm', 'hf'):
            monkeypatch.setitem(SCHEMES, scheme, lambda rest: Path(file))

    return serve


@pytest.mark.parametrize(
    ('reference', 'model_name'),
    [
        ('tf_efficientnet_b0.ns_jft_in1k', 'efficientnet_b0'),
        ('tf_mobilenetv3_large_100.in1k', 'mobilenetv3_large_100'),
        ('efficientnet_lite0.ra_in1k', 'tf_efficientnet_lite0'),
        ('resnetaa50.a1h_in1k', 'resnet50'),
        ('vit_base_patch16_clip_quickgelu_224.openai', 'vit_base_patch16_clip_224'),
    ],
)
def test_timms_weights_go_into_the_architecture_that_they_name_only(
    tmp_path, served, reference, model_name
):
    theirs = reference.partition('.')[0]
    served(saved(content_of(lambda: timm.create_model(theirs)), tmp_path / 'weights.pth'))
    message = (
        f'another network: these are weights of {theirs} and the module is {model_name}\\. '
        f"Set model_name='{theirs}'"
    )
    ours = empty(lambda: timm_backbone(model_name))
    for wrong in (f'timm://{reference}', f'hf://timm/{reference}/model.safetensors'):
        with pytest.raises(PretrainedWeightsError, match=message):
            load_pretrained(ours, wrong)
    report = load_pretrained(empty(lambda: timm_backbone(theirs)), f'timm://{reference}')
    assert report.coverage == 1
    assert not report.notes


def test_a_file_named_after_another_architecture_has_a_note(tmp_path):
    content = content_of(lambda: timm.create_model('resnetaa50'))
    file = saved(content, tmp_path / 'resnetaa50_a1h-4cf422b3.pth')
    report = load_pretrained(empty(lambda: timm_backbone('resnet50')), file)
    assert report.notes == [
        'the file is called resnetaa50 and the module is resnet50: another network'
    ]
    assert not load_pretrained(empty(lambda: timm_backbone('resnetaa50')), file).notes


def test_smps_efficientnet_goes_into_timms_of_the_same_padding_only(tmp_path):
    file = saved(
        content_of(lambda: smp.Unet('efficientnet-b0', encoder_weights=None)),
        tmp_path / 'weights.pth',
    )
    message = "pads as TensorFlow does, and efficientnet_b0 does not. Set model_name='tf_efficient"
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(empty(lambda: timm_backbone('efficientnet_b0')), file)
    assert load_pretrained(empty(lambda: timm_backbone('tf_efficientnet_b0')), file).coverage == 1


@pytest.mark.parametrize('contracted', [True, False])
def test_an_smp_encoder_is_exact_or_noted_in_a_dilated_resnet(tmp_path, contracted):
    network = randomized(smp.DeepLabV3('resnet50', encoder_weights=None, encoder_output_stride=8))
    ours = build(**{**RESNET50_D8, 'contract_dilation': contracted})
    report = load_pretrained(ours, saved(network, tmp_path / 'weights.pth'))
    layers = [f'encoder.layer{stage}' for stage in (1, 2, 3, 4)]
    apart = difference(features_of(ours, image()), outputs_of(network, layers, image()))
    assert (apart > 1e-2) == contracted
    assert ('contract_dilation=False' in ' '.join(report.notes)) == contracted
