"""A whole segmentation model as a start for one with other classes."""

from __future__ import annotations

import pytest
import torch

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from tests.helpers.networks import NARROW_RESNET, build, randomized, saved, small_segmentor

THEIRS = ['road', 'Traffic Light', 'sky', 'water']
OURS = ['sky', 'sea', 'traffic_light']
CLASSIFIERS = ['decode_head.conv_seg', 'auxiliary_head.conv_seg']


def checkpoint(path, meta: dict) -> tuple[torch.nn.Module, str]:
    network = randomized(small_segmentor(classes=4))
    return network, saved({'meta': meta, 'state_dict': network.state_dict()}, path)


@pytest.fixture
def named(tmp_path) -> tuple[torch.nn.Module, str]:
    return checkpoint(tmp_path / 'named.pth', {'dataset_meta': {'classes': THEIRS}})


def values(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_with_other_classes_all_but_the_classifiers_is_loaded(named):
    network, file = named
    ours = randomized(small_segmentor(classes=3), seed=9)
    before = values(ours)
    report = load_pretrained(ours, file)
    assert report.coverage == 1
    rows = [f'{layer}.{part}' for layer in CLASSIFIERS for part in ('weight', 'bias')]
    assert sorted(report.reinitialized) == sorted(rows)
    assert set(report.reinitialized.values()) == {'4 classes in the checkpoint, 3 in the module'}
    for name, tensor in ours.state_dict().items():
        expected = before[name] if name in rows else network.state_dict()[name]
        assert torch.equal(tensor, expected), name
    assert 'reinitialized' in str(report)


def test_with_as_many_classes_the_classifiers_are_loaded_too(named):
    network, file = named
    ours = randomized(small_segmentor(classes=4), seed=9)
    report = load_pretrained(ours, file)
    assert (report.coverage, report.reinitialized) == (1, {})
    assert torch.equal(ours.decode_head.conv_seg.weight, network.decode_head.conv_seg.weight)


@pytest.mark.parametrize(
    'meta', [{'CLASSES': tuple(THEIRS)}, {'dataset_meta': {'CLASSES': THEIRS}}]
)
def test_by_name_the_rows_of_shared_classes_are_copied(tmp_path, meta):
    network, file = checkpoint(tmp_path / 'w.pth', meta)
    ours = randomized(small_segmentor(classes=3), seed=9)
    before = values(ours)
    report = load_pretrained(ours, file, classes='by_name', class_names=OURS)
    for layer in CLASSIFIERS:
        for part in ('weight', 'bias'):
            name = f'{layer}.{part}'
            got, theirs = ours.state_dict()[name], network.state_dict()[name]
            assert torch.equal(got[0], theirs[2])
            assert torch.equal(got[2], theirs[1])
            assert torch.equal(got[1], before[name][1])
            assert report.adapted[name] == '2 of 3 classes by name: sky, traffic_light'
    assert 'sky, traffic_light' in str(report)


def test_by_name_rows_are_sorted_anew_even_where_the_counts_agree(named):
    network, file = named
    ours = small_segmentor(classes=4)
    load_pretrained(ours, file, classes='by_name', class_names=THEIRS[::-1])
    theirs = network.decode_head.conv_seg.weight
    assert torch.equal(ours.decode_head.conv_seg.weight, theirs.flip(0))


def test_by_name_without_a_shared_class_leaves_the_classifiers(named):
    _, file = named
    report = load_pretrained(
        small_segmentor(classes=2), file, classes='by_name', class_names=['cat', 'dog']
    )
    assert set(report.reinitialized.values()) == {'no class name in common'}


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'classes': 'by_name'}, r'say class_names=\[\.\.\.\].*Hook takes .* if its metainfo has'),
        ({'classes': 'by_name', 'class_names': OURS[:2]}, '2 class names for the 3 classes of the'),
    ],
)
def test_by_name_says_what_it_needs(named, settings, message):
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(small_segmentor(classes=3), named[1], **settings)


def test_by_name_a_single_row_for_two_classes_has_a_way_out(tmp_path):
    _, file = checkpoint(tmp_path / 'w.pth', {'dataset_meta': {'classes': THEIRS}})
    ours = small_segmentor(classes=1)
    message = '2 class names for the 1 classes .*leave classes=None.*out_channels=1'
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(ours, file, classes='by_name', class_names=['sky', 'sea'])
    assert load_pretrained(ours, file).coverage == 1


def test_by_name_needs_names_in_the_checkpoint(tmp_path):
    _, file = checkpoint(tmp_path / 'w.pth', {})
    with pytest.raises(PretrainedWeightsError, match='does not tell its class names'):
        load_pretrained(small_segmentor(3), file, classes='by_name', class_names=OURS)


def test_a_model_without_an_auxiliary_head_takes_the_rest(named):
    ours = small_segmentor(classes=4)
    ours.auxiliary_head = None
    report = load_pretrained(ours, named[1])
    assert report.coverage == 1
    assert all(name.startswith('auxiliary_head.') for name in report.unexpected)


def test_a_whole_model_serves_a_backbone_alone(named):
    network, file = named
    ours = build(**{**NARROW_RESNET, 'type': 'ResNetV1c'})
    assert load_pretrained(ours, file).prefix == 'backbone.'
    assert torch.equal(ours.layer4[1].conv2.weight, network.backbone.layer4[1].conv2.weight)
