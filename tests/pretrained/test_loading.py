"""Nothing is loaded in silence: what does not fit is an error that says why and what mends it."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import segmentation

from pspnet_plugin.pretrained import load_pretrained
from tests.helpers.networks import (
    NARROW_RESNET,
    RESNET50_D8,
    build,
    content_of,
    empty,
    randomized,
    refused,
    saved,
    small_segmentor,
)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Random weights of torchvision's networks by name."""
    folder = tmp_path_factory.mktemp('weights')
    made = {}

    def file_of(name: str) -> str:
        if name not in made:
            with torch.device('meta'):
                network = torchvision.models.get_model(name, weights=None)
            made[name] = saved(randomized(network.to_empty(device='cpu')), folder / f'{name}.pth')
        return made[name]

    return file_of


# --- every way to load nothing, or something else -----------------------------------------------


def test_weights_of_a_deeper_network_are_refused_although_they_cover_the_module(files):
    module = build(type='ResNet', depth=18)
    error = refused(module, files('resnet34'), r'tensors inside the layers .*key_map')
    assert error.report.coverage == 1
    dropped = [(r'^layer1\.2\.|^layer2\.[23]\.|^layer3\.[2-5]\.|^layer4\.2\.', None)]
    assert load_pretrained(module, files('resnet34'), key_map=dropped).coverage == 1


def test_weights_with_more_in_each_block_are_refused_although_they_cover_the_module(tmp_path):
    file = saved(timm.create_model('legacy_seresnet18'), tmp_path / 'weights.pth')
    key_map = [(r'^layer0\.', '')]
    refused(build(type='ResNet', depth=18), file, r'such as layer1\.0\.se_module', key_map=key_map)


def test_a_bias_of_zero_inside_a_layer_is_no_reason_to_refuse(files, tmp_path):
    # Weights that were converted from Caffe have them.
    content = torch.load(files('resnet18'), weights_only=True)
    content['conv1.bias'] = torch.zeros(64)
    file = saved(content, tmp_path / 'weights.pth')
    report = load_pretrained(build(type='ResNet', depth=18), file)
    assert 'conv1.bias' in report.unexpected
    content['conv1.bias'] = torch.ones(64)
    refused(build(type='ResNet', depth=18), saved(content, tmp_path / 'w.pth'), r'conv1\.bias')


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.', 'module.backbone.'])
def test_a_wrong_prefix_is_refused_with_the_beginnings_that_there_are(files, prefix):
    message = r'No name .* begins with prefix=.*\. They begin with conv1\., bn1\.'
    refused(build(type='ResNet', depth=18), files('resnet18'), message, prefix=prefix)


def test_a_prefix_that_leads_elsewhere_is_refused_with_the_one_that_would_fit(tmp_path):
    network = build(type='ResNet', depth=18)
    content = {f'backbone.{name}': t for name, t in network.state_dict().items()}
    content['neck.conv.weight'] = torch.zeros(1)
    file = saved(content, tmp_path / 'weights.pth')
    message = r"Say prefix='backbone\.': 100 of the module's tensors fit there"
    refused(network, file, message, prefix='neck.')
    assert load_pretrained(network, file, prefix='backbone').prefix == 'backbone.'


def test_a_prefix_where_none_is_needed_is_refused_with_that(files):
    message = r"Say prefix=None: 100 of the module's tensors fit there"
    refused(build(type='ResNet', depth=18), files('resnet18'), message, prefix='fc.')


def test_a_conversion_that_does_not_apply_is_refused(files):
    module = build(type='ResNet', depth=18)
    refused(module, files('resnet18'), 'not in the layout of', conversion='semseg')
    refused(
        module,
        files('resnet18'),
        "conversion='caffe' is not understood.*torchvision-resnet",
        conversion='caffe',
    )


def test_another_kind_of_network_is_refused_with_names_of_both(files):
    module = build(type='ResNet', depth=18)
    refused(module, files('mobilenet_v2'), r'features\.0\.0\.weight.*conv1\.weight.*key_map')


def test_another_width_is_refused(files):
    refused(build(type='ResNet', depth=50), files('wide_resnet50_2'), 'names agree and the shapes')


def test_backbone_weights_do_not_go_into_a_whole_model(files):
    module = nn.ModuleDict({'backbone': build(type='ResNet', depth=18), 'head': nn.Linear(512, 9)})
    refused(
        module,
        files('resnet18'),
        "load its backbone, give the init_cfg to the backbone.*module='backbone'",
    )


def test_a_checkpoint_without_the_heads_does_not_go_into_a_whole_model(tmp_path):
    module = nn.ModuleDict({'backbone': build(type='ResNet', depth=18), 'head': nn.Linear(512, 9)})
    content = {n: t for n, t in module.state_dict().items() if n.startswith('backbone.')}
    file = saved(content, tmp_path / 'weights.pth')
    refused(module, file, "nothing for head. To load the backbone only.*module='backbone'")


@pytest.mark.parametrize(
    ('key_map', 'message'),
    [
        ([('nothing', 'x')], "no name .* matches 'nothing'"),
        ([(r'^layer(1|2)\.', 'layer1.')], 'the same name'),
        ({'^layer1': 'x'}, r"key_map=\{'\^layer1': 'x'\} is not understood.*list of pairs"),
    ],
)
def test_a_wrong_key_map_is_refused(files, key_map, message):
    refused(build(type='ResNet', depth=18), files('resnet18'), message, key_map=key_map)


def test_a_stated_coverage_decides_alone_and_zero_is_never_enough(files):
    module = build(type='ResNetV1c', depth=50)
    report = load_pretrained(module, files('resnet50'), min_coverage=0.9)
    assert report.coverage == pytest.approx(260 / 275)
    assert 'stem.0.weight' in report.missing
    refused(module, files('resnet50'), '94.5% .* and 95% are needed', min_coverage=0.95)
    module = build(type='ResNet', depth=18)
    refused(module, files('mobilenet_v2'), 'covers 0.0%', min_coverage=0, prefix='classifier')


def layers(count: int) -> nn.Module:
    """``count`` scales and as many biases, and one matrix."""
    norms = [nn.BatchNorm1d(3, track_running_stats=False) for _ in range(count)]
    return nn.Sequential(*norms, nn.Linear(3, 3, bias=False))


@pytest.mark.parametrize(
    ('without', 'settings', 'accepted'),
    [
        (['0.bias'], {}, True),
        (['0.bias', '1.bias', '2.bias'], {}, False),
        (['100.weight'], {}, False),
        (['100.weight'], {'min_coverage': 0.99}, True),
        (['0.bias'], {'min_coverage': 1}, False),
    ],
)
def test_by_default_every_matrix_and_nearly_every_tensor_must_come(
    tmp_path, without, settings, accepted
):
    network = layers(100)
    content = {name: t for name, t in network.state_dict().items() if name not in without}
    file = saved(content, tmp_path / 'weights.pth')
    if accepted:
        assert load_pretrained(network, file, **settings).missing == without
    else:
        refused(network, file, f'covers .*Missing: {without[0]}', **settings)


def test_a_table_of_integers_is_not_left_at_random(tmp_path):
    network = layers(100)
    file = saved(network, tmp_path / 'weights.pth')
    network.register_buffer('index', torch.arange(4).view(2, 2))
    report = load_pretrained(network, file)
    assert (report.missing, list(report.reinitialized)) == ([], ['index'])


# --- the report ---------------------------------------------------------------------------------


def test_the_report_accounts_for_every_tensor_once(files):
    module = build(type='ResNet', depth=18, in_channels=4)
    report = load_pretrained(module, files('resnet18'))
    names = [*report.loaded, *report.adapted, *report.missing, *report.mismatched]
    assert sorted(names) == sorted(module.state_dict())
    assert sorted(report.unexpected) == ['fc.bias', 'fc.weight']
    assert report.received == report.expected == 100


def test_the_report_says_it_all_as_a_table_and_as_json(files, tmp_path):
    report = load_pretrained(build(type='ResNet', depth=18, in_channels=4), files('resnet18'))
    text = str(report)
    for part in (report.reference, report.sha256, 'torchvision-resnet', 'coverage 100.00%'):
        assert part in text
    rows = [line.split() for line in text.splitlines()]
    assert ['conv1', '1'] in rows
    assert ['layer1', '20'] in rows
    assert ['fc', '2'] in rows
    values = json.loads(json.dumps(report.as_dict()))
    assert values['coverage'] == 1
    assert values['adapted'] == {'conv1.weight': 'input channels R, G, B, mean'}
    assert values['sha256'] == report.sha256


def two_networks(layout: str, network: nn.Module, other: nn.Module) -> dict:
    ours, theirs = network.state_dict(), other.state_dict()
    if layout == 'mmengine':
        averages = {f'module.{name}': tensor for name, tensor in theirs.items()}
        return {'state_dict': ours, 'ema_state_dict': {'steps': torch.tensor(3), **averages}}
    if layout == 'timm':
        return {'state_dict': ours, 'state_dict_ema': theirs}
    names = layout.split()
    content = {
        prefix + name: tensor
        for prefix, tensors in zip(names, (ours, theirs))
        for name, tensor in tensors.items()
    }
    return {'state_dict': content} if 'module' in layout else content


@pytest.mark.parametrize(
    ('layout', 'taken'),
    [
        ('module.base_encoder. module.momentum_encoder.', "'module.base_encoder.'"),
        ('student. teacher.', "'student.'"),
        ('mmengine', "'state_dict'"),
        ('timm', "'state_dict'"),
    ],
)
@pytest.mark.parametrize('whole', [True, False])
def test_the_report_says_which_of_two_networks_was_taken_and_how_to_take_the_other(
    tmp_path, layout, taken, whole
):
    make = small_segmentor if whole else lambda: build(**NARROW_RESNET)
    networks = [randomized(make(), seed) for seed in (0, 1)]
    file = saved(two_networks(layout, *networks), tmp_path / 'weights.pth')
    module = make()
    report = load_pretrained(module, file)
    (note,) = report.notes
    assert note.startswith(f'{taken} w')
    assert f'note: {note}' in str(report)
    advised = ast.literal_eval(re.search(r'prefix=(.+) takes th', note).group(1))
    for network, settings in zip(networks, ({}, {'prefix': advised})):
        load_pretrained(module, file, **settings)
        loaded = module.state_dict()
        assert all(torch.equal(loaded[name], t) for name, t in network.state_dict().items())
    assert not load_pretrained(module, saved(module, tmp_path / 'one.pth')).notes


def test_the_report_notes_what_names_do_not_show(files, tmp_path):
    caffe = build(type='ResNet', depth=50, style='caffe')
    report = load_pretrained(caffe, files('resnet50'))
    assert 'style' in report.notes[0]
    content = torch.load(files('resnet50'), weights_only=True)
    file = saved({n: t for n, t in content.items() if 'fc' not in n}, tmp_path / 'caffe50.pth')
    assert 'caffe' in load_pretrained(build(type='ResNet', depth=50), file).notes[0]


def test_the_report_names_what_is_missing_although_the_coverage_suffices(files, tmp_path):
    content = torch.load(files('resnet50'), weights_only=True)
    del content['bn1.weight']
    file = saved(content, tmp_path / 'weights.pth')
    report = load_pretrained(build(type='ResNet', depth=50), file)
    assert 'missing: bn1.weight' in str(report)


@pytest.mark.parametrize('contracted', [True, False])
def test_the_report_notes_the_dilation_that_weights_were_trained_with(tmp_path, contracted):
    make = segmentation.fcn_resnet50
    content = content_of(lambda: make(weights=None, weights_backbone=None))
    file = saved(content, tmp_path / 'weights.pth')
    dilated = empty(lambda: build(**{**RESNET50_D8, 'contract_dilation': contracted}))
    notes = load_pretrained(dilated, file).notes
    assert ('contract_dilation=True' in ' '.join(notes)) == (not contracted)
    plain = empty(lambda: build(type='ResNet', depth=50, contract_dilation=contracted))
    assert not load_pretrained(plain, file).notes


def test_loading_goes_through_each_step_once(files):
    steps = ['resolve', 'fetch', 'read_checkpoint', 'find_match', 'plan_load', 'judge', 'write']
    steps.append('report_on')
    folder = str(Path(load_pretrained.__code__.co_filename).parent)
    seen = []

    def watch(frame, event, _):
        code = frame.f_code
        if event == 'call' and code.co_filename.startswith(folder) and code.co_name in steps:
            seen.append(code.co_name)

    module, file = build(type='ResNet', depth=18), files('resnet18')
    sys.setprofile(watch)
    try:
        load_pretrained(module, file)
    finally:
        sys.setprofile(None)
    assert seen == steps


def test_the_report_has_the_meta_of_the_checkpoint(tmp_path):
    network = nn.Linear(3, 2)
    content = {'meta': {'epoch': 3}, 'state_dict': network.state_dict()}
    report = load_pretrained(network, saved(content, tmp_path / 'weights.pth'))
    assert report.meta == {'epoch': 3}
    assert 'meta' not in report.as_dict()


def test_step_counters_are_loaded_and_not_counted(tmp_path):
    network = nn.BatchNorm1d(3)
    network.num_batches_tracked.fill_(7)
    ours = nn.BatchNorm1d(3)
    report = load_pretrained(ours, saved(network, tmp_path / 'weights.pth'))
    assert ours.num_batches_tracked == 7
    assert report.expected == 4
