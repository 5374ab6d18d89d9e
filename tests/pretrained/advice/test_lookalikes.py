"""Networks of the same names and shapes are told apart, and the right one gives their features."""

from __future__ import annotations

from pathlib import Path

import mmpretrain.models  # noqa: F401  registers the classifiers
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from mmengine.registry import MODELS as MMENGINE_MODELS

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
    timm_backbone,
)


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


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('resnetaa50', 'ResNet'),
        ('resnetaa50d', 'ResNetV1d'),
        ('resnetblur50', 'ResNet'),
        ('resnetaa50', 'timm resnet50'),
    ],
)
def test_anti_aliased_resnets_are_refused_by_reference_and_noted_by_file_name(
    tmp_path, served, name, kind
):
    library, _, other = kind.partition(' ')
    make = (lambda: timm_backbone(other)) if other else lambda: build(type=library, depth=50)
    file = saved(content_of(lambda: timm.create_model(name)), tmp_path / f'{name}_a1h-4cf422b3.pth')
    module = other or 'a network without anti-aliased downsampling'
    note = f'the file is called {name} and the module is {module}: another network'
    assert note in load_pretrained(empty(make), file).notes
    assert not load_pretrained(empty(lambda: timm_backbone(name)), file).notes
    served(file)
    message = f'of {name} and the module is {module}.* model_name={name!r} in a TIMM'
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(empty(make), f'timm://{name}.a1h_in1k')


@pytest.mark.parametrize(
    ('encoder', 'model_name', 'other'),
    [
        ('efficientnet-b0', 'tf_efficientnet_b0', 'efficientnet_b0'),
        ('timm-efficientnet-b0', 'efficientnet_b0', 'tf_efficientnet_b0'),
        ('timm-tf_efficientnet_lite0', 'efficientnet_lite0', 'tf_efficientnet_lite0'),
        ('tu-tf_efficientnet_b0', 'tf_efficientnet_b0', None),
    ],
)
def test_smps_efficientnets_go_into_timms_network_of_the_same_padding_only(
    tmp_path, encoder, model_name, other
):
    network = randomized(smp.Unet(encoder, encoder_weights=None, decoder_channels=(8,) * 5))
    file = saved(network, tmp_path / 'weights.pth')
    ours = timm_backbone(model_name)
    assert load_pretrained(ours, file).coverage == 1
    with torch.no_grad():
        theirs = network.double().encoder(image())[-1]
    assert difference(features_of(ours, image())[-1:], [theirs]) < 1e-6
    if other:
        message = rf"pads as \w+ does, and {other} does not\. Set model_name='{model_name}'"
        with pytest.raises(PretrainedWeightsError, match=message):
            load_pretrained(timm_backbone(other), file)


@pytest.mark.parametrize('contracted', [True, False])
def test_an_smp_encoder_is_exact_or_noted_in_a_dilated_resnet(tmp_path, contracted):
    network = smp.DeepLabV3(
        'resnet50', encoder_weights=None, encoder_output_stride=8, decoder_channels=8
    )
    randomized(network)
    ours = build(**{**RESNET50_D8, 'contract_dilation': contracted})
    report = load_pretrained(ours, saved(network, tmp_path / 'weights.pth'))
    layers = [f'encoder.layer{stage}' for stage in (1, 2, 3, 4)]
    apart = difference(features_of(ours, image()), outputs_of(network, layers, image()))
    assert (apart > 1e-2) == contracted
    assert ('contract_dilation=False' in ' '.join(report.notes)) == contracted


@pytest.mark.parametrize('dilated', [True, False])
def test_timms_resnet50d_is_exact_or_noted_in_a_resnetv1d(tmp_path, dilated):
    stride, narrow = 8 if dilated else 32, (8, 16, 32, 64)
    network = timm.create_model('resnet50d', output_stride=stride, channels=narrow)
    randomized(network)
    config = RESNET50_D8 if dilated else {'depth': 50}
    ours = build(**{**config, 'type': 'ResNetV1d', 'base_channels': narrow[0]})
    report = load_pretrained(ours, saved(network, tmp_path / 'weights.pth'))
    layers = [f'layer{stage}' for stage in (1, 2, 3, 4)]
    apart = difference(features_of(ours, image()), outputs_of(network, layers, image()))
    assert (apart > 1e-2) == dilated
    assert ('average 2 x 2 pixels' in ' '.join(report.notes)) == dilated


HRNET_STAGES = {
    f'stage{stage}': {
        'num_modules': 1,
        'num_branches': stage,
        'block': 'BOTTLENECK' if stage == 1 else 'BASIC',
        'num_blocks': (1,) if stage == 1 else (2,) * stage,
        'num_channels': (32,) if stage == 1 else (16, 32, 64, 128)[:stage],
    }
    for stage in (1, 2, 3, 4)
}


def hrnet_of(library: str):
    if library in ('timm', 'mmpose'):
        return timm.create_model('hrnet_w18_small')
    return MMENGINE_MODELS.build(
        {
            'type': 'mmpretrain.ImageClassifier',
            'backbone': {'type': 'HRNet', 'extra': HRNET_STAGES},
            'neck': {'type': 'HRFuseScales', 'in_channels': (16, 32, 64, 128)}
            if library == 'mmpretrain'
            else {'type': 'GlobalAveragePooling'},
            'head': {'type': 'LinearClsHead', 'num_classes': 5, 'in_channels': 2048},
        }
    )


@pytest.mark.parametrize('library', ['timm', 'mmpretrain', 'mmpretrain, pooled', 'mmpose'])
def test_hrnets_that_upsample_otherwise_are_refused(tmp_path, library):
    network = randomized(hrnet_of(library))
    content = network.state_dict()
    if library == 'mmpose':  # which downloads timm's network with one part under another name
        content = {name.replace('incre_modules', 'head.0'): t for name, t in content.items()}
    file = saved(content, tmp_path / 'weights.pth')
    ours = build(type='HRNet', extra=HRNET_STAGES)
    with pytest.raises(PretrainedWeightsError, match=r'nearest .* bilinearly.*min_coverage=1'):
        load_pretrained(ours, file)
    assert load_pretrained(ours, file, min_coverage=1).coverage == 1
    # That is the whole difference.
    backbone = network if library in ('timm', 'mmpose') else network.backbone
    theirs = outputs_of(backbone, ['stage4'], image())[0]
    assert difference(features_of(ours, image()), theirs) > 1e-2
    for name, part in ours.named_modules():
        if '.fuse_layers.' in name and hasattr(part, 'align_corners'):
            part.mode, part.align_corners = 'nearest', None
    assert difference(features_of(ours, image()), theirs) < 1e-6


def test_hrnets_of_segmentation_models_are_taken(tmp_path):
    network = build(type='HRNet', extra=HRNET_STAGES)
    others = ('decode_head.conv_seg.weight', 'auxiliary_head.0.conv_seg.weight')
    content = {f'backbone.{name}': tensor for name, tensor in network.state_dict().items()}
    file = saved({**content, **dict.fromkeys(others, torch.ones(2))}, tmp_path / 'weights.pth')
    assert load_pretrained(network, file).coverage == 1


# --- other paddings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('encoder', 'model_name'),
    [
        ('xception', 'legacy_xception'),
        ('inceptionv4', 'inception_v4'),
        ('inceptionresnetv2', 'inception_resnet_v2'),
    ],
)
def test_smps_networks_of_another_padding_than_timms_are_refused(tmp_path, encoder, model_name):
    network = randomized(smp.Unet(encoder, encoder_weights=None, decoder_channels=(8,) * 5))
    file = saved(network, tmp_path / 'weights.pth')
    ours = timm_backbone(model_name)
    with pytest.raises(PretrainedWeightsError, match=r'pads its convolutions, and .*min_coverage'):
        load_pretrained(ours, file)
    assert load_pretrained(ours, file, min_coverage=1).coverage == 1
    theirs = network.encoder.double()(image(size=96))[-1]
    last = features_of(ours, image(size=96))[-1]
    # Other paddings make maps of another size.
    assert last.shape != theirs.shape or difference([last], [theirs]) > 1e-2
    own = saved(timm.create_model(model_name), tmp_path / 'own.pth')
    assert load_pretrained(ours, own).coverage == 1


def test_smps_mobilenetv3_goes_into_the_network_that_pads_as_it_does(tmp_path):
    network = randomized(
        smp.Unet('timm-mobilenetv3_small_100', encoder_weights=None, decoder_channels=(8,) * 5)
    )
    file = saved(network, tmp_path / 'weights.pth')
    plain, padded = (timm_backbone(f'{kind}mobilenetv3_small_100') for kind in ('', 'tf_'))
    with pytest.raises(PretrainedWeightsError, match="Set model_name='tf_mobilenetv3_small_100'"):
        load_pretrained(plain, file)
    assert load_pretrained(plain, file, min_coverage=1).coverage == 1
    assert load_pretrained(padded, file).coverage == 1
    theirs = network.encoder.double()(image())[-1:]
    assert difference(features_of(padded, image())[-1:], theirs) < 1e-6
    assert difference(features_of(plain, image())[-1:], theirs) > 1e-2


@pytest.mark.parametrize(('arch', 'channels'), [('small', 576), ('large', 960)])
def test_mmpretrains_mobilenetv3_is_refused_by_mmsegmentations(tmp_path, arch, channels):
    head = {'type': 'StackedLinearClsHead', 'num_classes': 5, 'mid_channels': [8]}
    network = MMENGINE_MODELS.build(
        {
            'type': 'mmpretrain.ImageClassifier',
            'backbone': {'type': 'MobileNetV3', 'arch': arch},
            'neck': {'type': 'GlobalAveragePooling'},
            'head': {**head, 'in_channels': channels, 'act_cfg': {'type': 'HSwish'}},
        }
    )
    file = saved({'state_dict': randomized(network).state_dict()}, tmp_path / 'weights.pth')
    ours = build(type='MobileNetV3', arch=arch)
    message = "pads as PyTorch does.*type='mmpretrain.MobileNetV3'.*min_coverage=1"
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(ours, file)
    assert load_pretrained(ours, file, min_coverage=1).coverage == 1
    theirs = outputs_of(network.backbone, ['layer0', 'layer1'], image())
    assert difference(outputs_of(ours, ['layer0', 'layer1'], image()), theirs) > 1e-2
    same = MMENGINE_MODELS.build({'type': 'mmpretrain.MobileNetV3', 'arch': arch})
    assert load_pretrained(same, file).coverage == 1
    assert difference(outputs_of(same, ['layer0', 'layer1'], image()), theirs) < 1e-6
    # A segmentation model's is taken.
    backbone = {f'backbone.{name}': tensor for name, tensor in ours.state_dict().items()}
    content = {**backbone, 'decode_head.conv_seg.weight': torch.ones(1)}
    assert load_pretrained(ours, saved(content, tmp_path / 'weights.pth')).coverage == 1


# --- input channels -----------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['nf_resnet26', 'resnetv2_50x1_bit'])
@pytest.mark.parametrize('channels', [1, 4])
def test_stems_that_standardize_their_weights_answer_grey_otherwise_and_are_refused(
    tmp_path, name, channels
):
    rgb = randomized(timm_backbone(name, out_indices=(0,)))
    file = saved(rgb, tmp_path / 'weights.pth')
    ours = timm_backbone(name, in_channels=channels, out_indices=(0,))
    with pytest.raises(PretrainedWeightsError, match=r'standardizes its weights.*min_coverage=1'):
        load_pretrained(ours, file)
    assert load_pretrained(ours, file, min_coverage=1).coverage == 1
    grey = image(channels=1)
    theirs = features_of(rgb, grey.expand(-1, 3, -1, -1))
    assert difference(features_of(ours, grey.expand(-1, channels, -1, -1)), theirs) > 1e-2
    # Another order of the colours is the same network.
    assert load_pretrained(rgb, file, first_conv={'channels': ['B', 'G', 'R']}).coverage == 1
    assert (
        difference(features_of(rgb, image().flip(1)), features_of(rgb_again(name, file), image()))
        < 1e-5
    )


def rgb_again(name: str, file: str):
    network = timm_backbone(name, out_indices=(0,))
    load_pretrained(network, file)
    return network


@pytest.mark.parametrize(('num_heads', 'noted'), [(2, False), (4, True)])
def test_another_number_of_attention_heads_than_a_vit_of_this_width_has_is_noted(
    tmp_path, num_heads, noted
):
    theirs = timm.models.VisionTransformer(embed_dim=128, depth=1, num_heads=2, img_size=64)
    settings = {'embed_dims': 128, 'num_layers': 1, 'img_size': 64, 'patch_bias': True}
    ours = build(type='VisionTransformer', num_heads=num_heads, **settings)
    report = load_pretrained(ours, saved(theirs, tmp_path / 'weights.pth'))
    assert ('attention heads' in ' '.join(report.notes)) == noted
