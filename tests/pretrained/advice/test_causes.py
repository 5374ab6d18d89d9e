"""What an error says is the cause, and that its advice mends it."""

from __future__ import annotations

import re

import mmpretrain.models  # noqa: F401  registers the classifiers
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn
from torchvision.models import detection, segmentation

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from tests.helpers.networks import build, content_of, empty, saved
from tests.helpers.semseg_network import SemsegPSPNet50

NO_WEIGHTS = {'weights': None, 'weights_backbone': None}


def mmpretrain_classifier(**backbone) -> nn.Module:
    head = {'type': 'LinearClsHead', 'num_classes': 5, 'in_channels': 512}
    config = {'type': 'mmpretrain.ImageClassifier', 'backbone': backbone, 'head': head}
    # It computes with values while it builds.
    with torch.device('cpu'):
        return MMENGINE_MODELS.build(config)


LAYOUTS = {
    'fcn': lambda: segmentation.fcn_resnet50(**NO_WEIGHTS),
    'fasterrcnn': lambda: detection.fasterrcnn_resnet50_fpn(**NO_WEIGHTS),
    'semseg': lambda: nn.ModuleDict({'module': SemsegPSPNet50(classes=19)}),
    'moco': lambda: nn.ModuleDict({'encoder_q': torchvision.models.resnet50()}),
    'smp': lambda: smp.Unet('resnet34', encoder_weights=None),
    'mmpretrain': lambda: mmpretrain_classifier(type='ResNet', depth=18),
    'mmpretrain v1c': lambda: mmpretrain_classifier(type='ResNetV1c', depth=50),
    'mmpretrain v1d': lambda: mmpretrain_classifier(type='ResNetV1d', depth=50),
}


@pytest.fixture
def mended(tmp_path):
    """Assert what cause is told for a backbone, and that the change of it that is told mends it."""

    def check(content: dict, config: dict, message: str, change: dict, **settings) -> None:
        file = saved(content, tmp_path / 'weights.pth')
        with pytest.raises(PretrainedWeightsError, match=message):
            load_pretrained(empty(lambda: build(**config)), file)
        backbone = change if 'model_name' in change else {**config, **change}
        report = load_pretrained(empty(lambda: build(**backbone)), file, **settings)
        assert settings or report.coverage == 1

    return check


@pytest.mark.parametrize(
    ('layout', 'kind', 'depth', 'change'),
    [
        ('fcn', 'ResNet', 18, {'depth': 50}),
        ('fcn', 'ResNet', 101, {'depth': 50}),
        ('fcn', 'ResNetV1c', 50, {'type': 'ResNet'}),
        ('fasterrcnn', 'ResNet', 18, {'depth': 50}),
        ('fasterrcnn', 'ResNetV1c', 50, {'type': 'ResNet'}),
        ('semseg', 'ResNetV1c', 101, {'depth': 50, 'stem_channels': 128}),
        ('semseg', 'ResNetV1c', 50, {'stem_channels': 128}),
        ('semseg', 'ResNet', 50, {'type': 'ResNetV1c', 'stem_channels': 128}),
        ('moco', 'ResNet', 18, {'depth': 50}),
        ('moco', 'ResNetV1c', 50, {'type': 'ResNet'}),
        ('smp', 'ResNet', 18, {'depth': 34}),
        ('smp', 'ResNetV1c', 34, {'type': 'ResNet'}),
        ('mmpretrain', 'ResNet', 50, {'depth': 18}),
        ('mmpretrain', 'ResNetV1c', 18, {'type': 'ResNet'}),
        ('mmpretrain v1c', 'ResNet', 50, {'type': 'ResNetV1c', 'stem_channels': 64}),
        ('mmpretrain v1c', 'ResNetV1d', 50, {'type': 'ResNetV1c'}),
        ('mmpretrain v1d', 'ResNetV1c', 50, {'type': 'ResNetV1d'}),
        ('timm resnet50d', 'ResNet', 50, {'type': 'ResNetV1d', 'stem_channels': 64}),
        ('timm resnet50c', 'ResNet', 50, {'type': 'ResNetV1c', 'stem_channels': 64}),
        ('timm resnet50d', 'ResNetV1c', 50, {'type': 'ResNetV1d'}),
    ],
)
def test_the_settings_of_another_resnet_are_told_in_every_layout(
    mended, layout, kind, depth, change
):
    library, _, name = layout.partition(' ')
    make = (lambda: timm.create_model(name)) if library == 'timm' else LAYOUTS[layout]
    said = ', '.join(f'{setting}={value!r}' for setting, value in change.items())
    message = f'those of a ResNet with {said}; the module has .* Set {said} in the backbone'
    mended(content_of(make), {'type': kind, 'depth': depth}, message, change)


@pytest.mark.parametrize('name', ['seresnet50', 'resnet50t'])
def test_a_resnet_that_mmsegmentation_cannot_build_is_refused(tmp_path, name):
    file = saved(content_of(lambda: timm.create_model(name)), tmp_path / 'weights.pth')
    with pytest.raises(PretrainedWeightsError, match='[Tt]ake the weights of this'):
        load_pretrained(empty(lambda: build(type='ResNet', depth=50)), file)


def test_weights_of_a_deep_stem_are_named_for_a_module_with_one(tmp_path):
    file = saved(content_of(torchvision.models.resnet50), tmp_path / 'weights.pth')
    with pytest.raises(PretrainedWeightsError, match='such as open-mmlab://resnet50_v1c'):
        load_pretrained(empty(lambda: build(type='ResNetV1c', depth=50)), file)


def test_a_few_names_in_common_are_not_taken_for_another_width(tmp_path):
    file = saved(content_of(torchvision.models.vit_b_16), tmp_path / 'weights.pth')
    module = build(type='SwinTransformer', depths=(1, 1, 1, 1))
    message = r'names have nothing in common: .*class_token.*patch_embed.*key_map'
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(module, file)


@pytest.mark.parametrize('channels', [4, 5])
@pytest.mark.parametrize(
    'config',
    [
        {'type': 'BiSeNetV2', 'out_indices': (0,)},
        {'type': 'TIMMBackbone', 'model_name': 'repvgg_a0', 'pretrained': False},
    ],
)
def test_other_channels_of_several_first_convolutions_are_named(mended, config, channels):
    content = content_of(lambda: build(**config, in_channels=channels))
    message = rf'for {channels} input channels and the module for 3\. Set in_channels={channels}'
    mended(content, config, message, {**config, 'in_channels': channels})


@pytest.mark.parametrize('name', ['convnext_pico', 'vit_tiny_patch16_224'])
def test_another_depth_is_named_for_any_network(mended, name):
    config = {'type': 'TIMMBackbone', 'model_name': name, 'pretrained': False}
    depth = {'depths': (2, 2, 4, 2)} if name.startswith('convnext') else {'depth': 6}
    content = content_of(lambda: timm.create_model(name, **depth))
    message = 'another depth: the checkpoint has [46] blocks in [a-z_2.]*blocks, the module has'
    mended(content, config, message, {**config, **depth})


# --- one decisive tensor ------------------------------------------------------------------------


RESNET18 = {'type': 'ResNet', 'depth': 18}


@pytest.mark.parametrize('channels', [1, 4])
def test_weights_for_other_channels_than_the_modules_are_an_error(mended, channels):
    content = content_of(lambda: build(**RESNET18, in_channels=channels))
    message = (
        r'99\.0% .* leaves conv1\.weight without a value\. The weights are for '
        rf'{channels} .*in_channels={channels} .*min_coverage=0\.99\..*'
        rf'conv1\.weight \(\[64, {channels}, 7, 7\] in the file, \[64, 3, 7, 7\] in the module'
    )
    mended(content, RESNET18, message, {'in_channels': channels})
    mended(content, RESNET18, message, {}, min_coverage=0.99)


def test_weights_for_other_channels_than_a_module_of_many_are_an_error(mended):
    content = content_of(lambda: build(**RESNET18, in_channels=1))
    message = 'for 1 input channels and the module for 5.* which first_conv adapts to 5'
    mended(content, {**RESNET18, 'in_channels': 5}, message, {'in_channels': 1})


def test_a_stem_with_another_kernel_is_an_error(mended):
    content = content_of(lambda: build(**RESNET18))
    content['conv1.weight'] = torch.zeros(()).expand(64, 3, 3, 3)
    message = r'leaves conv1.* kind of network.*min_coverage=0\.99.*\[64, 3, 3, 3\] in the file'
    mended(content, RESNET18, message, {}, min_coverage=0.99)


@pytest.mark.parametrize(('absent', 'coverage'), [('conv1.weight', 0.99), ('layer4', 0.81)])
def test_what_is_missing_is_an_error_although_most_is_there(mended, absent, coverage):
    content = content_of(torchvision.models.resnet50)
    content = {name: t for name, t in content.items() if not name.startswith(absent)}
    message = rf'leaves {absent}.*weights that have what is missing.*min_coverage={coverage}'
    mended(content, {'type': 'ResNet', 'depth': 50}, message, {}, min_coverage=coverage)


@pytest.mark.parametrize(
    'config',
    [
        {'type': 'VisionTransformer', 'num_layers': 12, 'embed_dims': 48, 'num_heads': 3},
        {'type': 'TIMMBackbone', 'model_name': 'vit_tiny_patch16_224', 'pretrained': False},
    ],
)
def test_a_position_embedding_for_another_image_size_is_an_error(tmp_path, config):
    file = saved(content_of(build(**config, img_size=96)), tmp_path / 'weights.pth')
    message = r'leaves \S*pos_embed without a value\. Set img_size .*\[1, 37, .*\[1, 17, '
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(build(**config, img_size=64), file)
    assert load_pretrained(build(**config, img_size=96), file).coverage == 1


@pytest.mark.parametrize(
    ('config', 'theirs', 'ours'),
    [
        ({'type': 'SwinTransformer', 'depths': (1, 1, 1, 1)}, {'window_size': 4}, {}),
        ({'type': 'BEiT', 'num_layers': 2}, {'img_size': 64}, {'img_size': 96}),
        (
            {'type': 'TIMMBackbone', 'model_name': 'maxvit_pico_rw_256', 'pretrained': False},
            {'img_size': 128},
            {'img_size': 256},
        ),
    ],
)
def test_windows_of_another_size_are_named(tmp_path, config, theirs, ours):
    file = saved(build(**config, **theirs), tmp_path / 'weights.pth')
    with pytest.raises(PretrainedWeightsError, match=r'windows of another size\. Set window_size'):
        load_pretrained(build(**config, **ours), file)
    assert load_pretrained(build(**config, **theirs), file).coverage == 1


def test_the_image_size_of_mmsegmentations_swin_has_its_own_name(tmp_path):
    config = {'type': 'SwinTransformer', 'depths': (1, 1, 1, 1), 'use_abs_pos_embed': True}
    file = saved(build(**config, pretrain_img_size=64), tmp_path / 'weights.pth')
    with pytest.raises(PretrainedWeightsError, match=r'Set pretrain_img_size in the backbone'):
        load_pretrained(build(**config), file)


def test_channels_behind_a_stem_that_folds_pixels_are_told_as_those_of_the_image(mended):
    config = {'type': 'TIMMBackbone', 'model_name': 'tresnet_m', 'pretrained': False}
    content = content_of(lambda: build(**config))
    message = r'for 3 input channels and the module for 4\. Set in_channels=3 in the backbone\. '
    mended(content, {**config, 'in_channels': 4}, message, {**config, 'in_channels': 3})


def test_a_resnet_of_no_published_depth_is_not_told_its_depth(tmp_path):
    absent = ('layer3.5', 'layer4.1', 'layer4.2', 'fc')
    content = content_of(torchvision.models.resnet50)
    content = {name: t for name, t in content.items() if not name.startswith(absent)}
    file = saved(content, tmp_path / 'weights.pth')
    with pytest.raises(PretrainedWeightsError) as caught:
        load_pretrained(empty(lambda: build(type='ResNet', depth=50)), file)
    assert 'depth' not in str(caught.value)


def test_a_bias_of_the_patches_that_the_module_lacks_is_named(tmp_path):
    config = {'type': 'VisionTransformer', 'num_layers': 2, 'embed_dims': 48, 'num_heads': 3}
    options = {'img_size': 224, 'depth': 2, 'embed_dim': 48}
    file = saved(timm.create_model('vit_tiny_patch16_224', **options), tmp_path / 'weights.pth')
    message = r'such as patch_embed\.proj\.bias\. Set patch_bias=True in the backbone'
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(build(**config), file)
    assert load_pretrained(build(**config, patch_bias=True), file).coverage == 1


# --- numbers that are none ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('convert', 'kind'),
    [
        (lambda t: t.to(torch.int8), 'int8'),
        (lambda t: t.to(torch.complex64), 'complex64'),
        (lambda t: t.to_sparse(), 'sparse_coo'),
        (lambda t: t.to('meta'), 'meta'),
    ],
)
def test_tensors_that_hold_no_plain_numbers_are_named(tmp_path, convert, kind):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(2, 2))
    content = {name: convert(tensor) for name, tensor in network.state_dict().items()}
    one = {**network.state_dict(), '1.weight': content['1.weight']}
    message = rf'Save plain numbers.*weight \({kind} in the file, float32 in the module\)'
    for tensors in (content, one):
        with pytest.raises(PretrainedWeightsError, match=message):
            load_pretrained(network, saved(tensors, tmp_path / 'weights.pth'))


@pytest.mark.parametrize('name', ['bn1.running_mean', 'layer4.1.bn2.running_var'])
def test_missing_running_statistics_are_an_error(tmp_path, name):
    module = build(**RESNET18)
    content = {n: t for n, t in module.state_dict().items() if n != name}
    file = saved(content, tmp_path / 'weights.pth')
    message = rf'leaves {name} without a value\. .*min_coverage=0\.99'
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(module, file)
    assert load_pretrained(module, file, min_coverage=0.99).missing == [name]


@pytest.mark.parametrize('settings', [{}, {'min_coverage': 0.9}])
def test_negative_variances_are_an_error(tmp_path, settings):
    module = build(**RESNET18)
    module.layer2[0].bn1.running_var[3] = -0.1
    file = saved(module, tmp_path / 'weights.pth')
    with pytest.raises(PretrainedWeightsError, match=r'layer2\.0\.bn1\.running_var negative var'):
        load_pretrained(module, file, **settings)


@pytest.mark.parametrize('name', ['layer3.0.conv2.weight', 'layer3.0.bn2.running_var'])
def test_weights_and_variances_of_zeros_are_an_error_and_scales_of_zero_are_none(tmp_path, name):
    module = build(**RESNET18)
    torch.nn.init.zeros_(module.layer3[0].bn2.weight)
    torch.nn.init.zeros_(module.layer3[0].bn1.running_mean)
    assert load_pretrained(module, saved(module, tmp_path / 'scales.pth')).coverage == 1
    torch.nn.init.zeros_(module.state_dict()[name])
    file = saved(module, tmp_path / 'weights.pth')
    with pytest.raises(PretrainedWeightsError, match=f'{name} nothing but zeros'):
        load_pretrained(module, file)
    assert load_pretrained(module, file, min_coverage=1).coverage == 1


def test_a_state_dict_of_arrays_is_named(tmp_path):
    network = nn.Linear(3, 2)
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    with pytest.raises(PretrainedWeightsError, match=r'numpy arrays.*torch\.as_tensor'):
        load_pretrained(network, saved(arrays, tmp_path / 'weights.pth'), trust_pickle=True)
    tensors = {name: torch.as_tensor(array) for name, array in arrays.items()}
    assert load_pretrained(network, saved(tensors, tmp_path / 'weights.pth')).coverage == 1


# --- an unexpected top-level key ----------------------------------------------------------------


@pytest.mark.parametrize(
    ('beside', 'path'),
    [
        ({'best_acc': torch.tensor(0.5)}, ['network']),
        ({'optimizer': {'state': {0: {'exp_avg': torch.zeros(3)}}}}, ['network']),
        ({}, ['network', 'inner']),
        ({'state_dict': {'epoch': torch.tensor(3)}}, ['trainer', 'network']),
    ],
)
@pytest.mark.parametrize('layout', ['bare', 'moco', 'semseg'])
def test_the_prefix_that_is_advised_leads_to_the_weights(tmp_path, beside, path, layout):
    config = {'type': 'ResNet', 'depth': 50}
    if layout == 'semseg':
        config = {'type': 'ResNetV1c', 'depth': 50, 'stem_channels': 128}
    content = content_of(LAYOUTS.get(layout, lambda: build(**config)))
    for key in reversed(path):
        content = {key: content}
    file = saved({**beside, **content}, tmp_path / 'weights.pth')
    module = empty(lambda: build(**config))
    with pytest.raises(PretrainedWeightsError, match=r"Say prefix='(\S+)'") as caught:
        load_pretrained(module, file)
    advised = re.search(r"Say prefix='(\S+)'", str(caught.value)).group(1)
    assert load_pretrained(module, file, prefix=advised).coverage == 1


def test_a_top_level_key_without_any_fitting_tensor_is_named(tmp_path):
    file = saved({'network': {'a.kernel': torch.ones(3, 3)}}, tmp_path / 'weights.pth')
    network = nn.Linear(3, 3, bias=False)
    message = r"key 'network'\. No tensor there fits.*key_map"
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(network, file)
    settings = {'prefix': 'network.a.', 'key_map': [(r'\.kernel$', '.weight')]}
    assert load_pretrained(network, file, **settings).coverage == 1
