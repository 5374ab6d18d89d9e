"""Patterns name what users think they name, in other people's networks too."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from mmseg.registry import MODELS
from torch import nn

from pspnet_plugin.freezing import SelectionError
from pspnet_plugin.freezing.selection import find_stages, select
from tests.helpers.freezing_runs import Net


def names_under(model, *parts):
    names = model.state_dict()
    return {name for name in names for part in parts if f'{name}.'.startswith(f'{part}.')}


class Whole(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(4, 2, 1)


def built(name, **config):
    return Whole(MODELS.build({'type': name, **config}))


@pytest.fixture(scope='module')
def resnet():
    backbone = torchvision.models.resnet18()
    backbone.fc = nn.Identity()
    return Whole(backbone)


@pytest.mark.parametrize(
    ('patterns', 'parts'),
    [
        (['backbone'], ['backbone']),
        (['backbone.layer[12]'], ['backbone.layer1', 'backbone.layer2']),
        (['backbone.layer1.0.conv1.weight'], ['backbone.layer1.0.conv1.weight']),
        (['*.layer4', 'head'], ['backbone.layer4', 'head']),
        (['*.layer4.1.bn?'], ['backbone.layer4.1.bn1', 'backbone.layer4.1.bn2']),
        (['backbone.stages[:0]'], ['backbone.conv1', 'backbone.bn1']),
        (['backbone.stages[:2]'],
         ['backbone.conv1', 'backbone.bn1', 'backbone.layer1', 'backbone.layer2']),
        (['backbone.stages[2:]'], ['backbone.layer3', 'backbone.layer4']),
        (['backbone.stages[1]'], ['backbone.layer2']),
        (['backbone.stages[-1]'], ['backbone.layer4']),
    ],
)  # fmt: skip
def test_a_pattern_covers_all_below_what_it_matches(resnet, patterns, parts):
    assert select(resnet, patterns) == names_under(resnet, *parts)


def test_exclude_takes_out_what_it_covers(resnet):
    kept = select(resnet, ['backbone'], ['backbone.stages[:1]', '*.bn?'])
    assert kept == {
        name
        for name in names_under(resnet, 'backbone.layer2', 'backbone.layer3', 'backbone.layer4')
        if '.bn' not in name
    }


def test_norm_means_every_normalization_layer():
    layers = {
        'a': nn.BatchNorm2d(4),
        'b': nn.Conv2d(4, 4, 1),
        'c': nn.GroupNorm(2, 4),
        'd': nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)),
        'e': nn.SyncBatchNorm(4),
        'f': nn.InstanceNorm2d(4, affine=True),
        'g': timm.layers.LayerNorm2d(4),
        'h': timm.layers.BatchNormAct2d(4),
        'i': torchvision.ops.FrozenBatchNorm2d(4),
        'j': timm.layers.RmsNorm2d(4),
        'k': timm.layers.EvoNorm2dB0(4),
        'l': timm.layers.FilterResponseNormAct2d(4),
        'm': timm.layers.FrozenBatchNormAct2d(4),
    }
    model = nn.ModuleDict(layers)
    norms = set(layers) - {'b', 'd'} | {'d.0'}
    assert select(model, ['norm']) == names_under(model, *norms)


class NormProduct(nn.Module):
    """Something else than a normalization, as its user means it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class NormalizedConv2d(nn.Conv2d):
    pass


class LayerNormLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    'other',
    [
        NormProduct(),
        NormalizedConv2d(4, 4, 1),
        LayerNormLinear(4, 4),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_only_has_norm_in_its_name_is_no_normalization_layer(other):
    model = nn.ModuleDict({'norm_': nn.BatchNorm2d(4), 'other': other})
    assert select(model, ['norm']) == names_under(model, 'norm_')


def test_a_tensor_with_two_names_is_covered_under_either():
    model = nn.ModuleDict({'a': nn.Linear(2, 2), 'b': nn.Linear(2, 2)})
    model['b'].weight = model['a'].weight
    assert select(model, ['b']) == {'a.weight', 'b.bias'}


@pytest.mark.parametrize(
    ('model', 'stem', 'stages'),
    [
        (
            built('ResNet', depth=18),
            ['conv1', 'bn1'],
            [['layer1'], ['layer2'], ['layer3'], ['layer4']],
        ),
        (built('ResNetV1c', depth=50), ['stem'], [['layer1'], ['layer2'], ['layer3'], ['layer4']]),
        (
            built('TIMMBackbone', model_name='tf_efficientnet_lite0', pretrained=False),
            ['timm_model.conv_stem', 'timm_model.bn1'],
            [[f'timm_model.blocks.{i}'] for i in range(7)],
        ),
        (
            built('TIMMBackbone', model_name='resnet18', pretrained=False),
            ['timm_model.conv1', 'timm_model.bn1'],
            [[f'timm_model.layer{i}'] for i in range(1, 5)],
        ),
        (
            built('TIMMBackbone', model_name='convnext_atto', pretrained=False),
            ['timm_model.stem_0', 'timm_model.stem_1'],
            [[f'timm_model.stages_{i}'] for i in range(4)],
        ),
        (built('MobileNetV2'), ['conv1'], [[f'layer{i}'] for i in range(1, 8)]),
        (
            built('SwinTransformer', embed_dims=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
            ['patch_embed'],
            [[f'stages.{i}'] for i in range(4)],
        ),
        (
            built('MixVisionTransformer', embed_dims=8, num_layers=[1, 1, 1, 1]),
            [],
            [[f'layers.{i}'] for i in range(4)],
        ),
    ],
    ids=lambda value: type(value.backbone).__name__ if isinstance(value, Whole) else '',
)
def test_stages_of_known_backbones(model, stem, stages):
    found_stem, found = find_stages(model.backbone)
    with_weights = {
        name for name in found_stem if names_under(model.backbone, name)
    }  # poolings and activations have none
    assert with_weights == set(stem)
    assert found == stages
    through = set().union(*(select(model, [f'backbone.stages[{i}]']) for i in range(len(stages))))
    assert through == names_under(model, *(f'backbone.{n}' for stage in stages for n in stage))


def test_a_transition_between_stages_belongs_to_the_later_one():
    model = timm.create_model('hrnet_w18_small', features_only=True)
    _, stages = find_stages(model)
    assert stages[1] == ['transition1', 'stage2']


@pytest.mark.parametrize(
    ('pattern', 'told'),
    [
        ('layer4', 'backbone.layer4'),
        ('backbone.laier4', 'backbone.layer4'),
        ('bakcbone', 'backbone'),
        ('backbone.layr[12]', 'backbone.layer1'),
        ('backbone.stages[4]', 'has 4'),
        ('backbone.stages[7:]', 'has 4'),
        ('backbone.stages[]', 'backbone'),
        ('bckbone.stages[:2]', 'backbone'),
        ('head.stages[0]', 'globs'),
        ('backbone.relu', 'no parameter'),
    ],
)
def test_a_pattern_without_a_match_is_refused_with_near_misses(resnet, pattern, told):
    with pytest.raises(SelectionError, match=told) as error:
        select(resnet, [pattern])
    assert 'stages' in pattern or repr(pattern) in str(error.value)


@pytest.mark.parametrize('pattern', ['backbone.layer1.0.relu', 'backbone.layer1.0.rellu'])
def test_every_near_miss_would_match(resnet, pattern):
    with pytest.raises(SelectionError, match='Near misses: ') as error:
        select(resnet, [pattern])
    near = str(error.value).split('Near misses: ')[1].split('. ')[0].split(', ')
    assert pattern not in near
    assert all(select(resnet, [name]) for name in near)


def test_a_wrong_exclude_is_refused_too():
    with pytest.raises(SelectionError, match=r'backbone\.layer9'):
        select(Net(), ['backbone'], ['backbone.layer9'])
    with pytest.raises(SelectionError, match='Nothing is left'):
        select(Net(), ['backbone.layer1'], ['backbone'])
