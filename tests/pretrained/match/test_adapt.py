from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmseg.registry import MODELS
from torch import nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from pspnet_plugin.pretrained.match.adapt import COLOURS, SOURCES, adapt_to_channels
from tests.helpers.networks import (
    NARROW_RESNET,
    build,
    difference,
    features_of,
    image,
    logits_of,
    randomized,
    saved,
    small_segmentor,
)

lists_of_sources = st.lists(st.sampled_from(SOURCES), min_size=1, max_size=8)


def weight(seed: int = 0) -> torch.Tensor:
    return torch.randn(
        5, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@given(channels=lists_of_sources, seed=st.integers(0, 100))
def test_the_response_to_grey_images_is_unchanged(channels, seed):
    rgb = weight(seed)
    adapted = adapt_to_channels(rgb, channels)
    assert adapted.shape == (5, len(channels), 3, 3)
    grey = torch.randn(1, 1, 9, 9, dtype=torch.float64)
    theirs = torch.conv2d(grey.expand(-1, 3, -1, -1), rgb)
    ours = torch.conv2d(grey.expand(-1, len(channels), -1, -1), adapted)
    torch.testing.assert_close(ours, theirs)


@given(order=st.permutations(COLOURS))
def test_a_permutation_of_the_colours_only_permutes(order):
    rgb = weight()
    rows = [COLOURS.index(colour) for colour in order]
    torch.testing.assert_close(adapt_to_channels(rgb, order), rgb[:, rows])


def test_a_fourth_channel_takes_the_mean_and_the_colours_keep_their_proportions():
    rgb = weight()
    adapted = adapt_to_channels(rgb, ['R', 'G', 'B', 'mean'])
    torch.testing.assert_close(adapted[:, :3], rgb * 0.75)
    torch.testing.assert_close(adapted[:, 3], rgb.mean(1) * 0.75)


@pytest.fixture(scope='module')
def rgb_weights(tmp_path_factory):
    network = randomized(build(**NARROW_RESNET))
    return network, saved(network, tmp_path_factory.mktemp('rgb') / 'rgb.pth')


@pytest.mark.parametrize('channels', [1, 2, 4, 6])
@pytest.mark.parametrize('kind', ['ResNet', 'ResNetV1c'])
def test_a_network_with_other_channels_answers_grey_as_the_rgb_network(tmp_path, kind, channels):
    rgb = randomized(build(**{**NARROW_RESNET, 'type': kind}))
    ours = randomized(build(**{**NARROW_RESNET, 'type': kind}, in_channels=channels), seed=3)
    report = load_pretrained(ours, saved(rgb, tmp_path / 'rgb.pth'))
    assert report.coverage == 1
    assert len(report.adapted) == 1
    grey = torch.randn(1, 1, 64, 64, dtype=torch.float64)
    rgb.double(), ours.double()
    with torch.no_grad():
        for a, b in zip(ours(grey.expand(-1, channels, -1, -1)), rgb(grey.expand(-1, 3, -1, -1))):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


SEVERAL = {
    'BiSeNetV2': {'type': 'BiSeNetV2', 'out_indices': (0,)},
    **{
        name: {'type': 'TIMMBackbone', 'model_name': name, 'pretrained': False}
        for name in ('repvgg_a0', 'fastvit_t8', 'mobileone_s0')
    },
}


@pytest.mark.parametrize('name', SEVERAL)
def test_all_convolutions_that_read_the_image_are_adapted(tmp_path, name):
    rgb = randomized(build(**SEVERAL[name]))
    file = saved(rgb, tmp_path / 'rgb.pth')
    rgb_image = image()
    theirs = features_of(rgb, rgb_image)
    for channels, pixels in ((['B', 'G', 'R'], rgb_image.flip(1)), (['mean'] * 4, None)):
        options = {'first_conv': {'channels': channels}}
        ours = randomized(build(**SEVERAL[name], in_channels=len(channels)), seed=3)
        report = load_pretrained(ours, file, **options)
        assert report.coverage == 1
        assert len(report.adapted) > 1
        if pixels is None:
            grey = rgb_image[:, :1]
            pixels = grey.expand(-1, 4, -1, -1)
            theirs = features_of(rgb, grey.expand(-1, 3, -1, -1))
        assert difference(features_of(ours, pixels), theirs) < 1e-5


ELSEWHERE = {
    # They concatenate the image with features.
    'CGNet': {'type': 'CGNet'},
    'ERFNet': {'type': 'ERFNet'},
    'a skip of the image': {'type': 'NetworkWithSkip'},
}


@MODELS.register_module()
class NetworkWithSkip(nn.Module):
    """A network of no library."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(7, 4, 3, padding=1)

    def forward(self, image):
        return [self.last(torch.cat([self.conv(image), image], dim=1))]


@pytest.mark.parametrize('name', ELSEWHERE)
def test_a_network_that_reads_the_image_elsewhere_too_refuses_other_channels(tmp_path, name):
    rgb = randomized(build(**ELSEWHERE[name]))
    file = saved(rgb, tmp_path / 'rgb.pth')
    with pytest.raises(PretrainedWeightsError, match='reads the image in more places'):
        load_pretrained(rgb, file, first_conv={'channels': ['B', 'G', 'R']})
    assert load_pretrained(rgb, file, first_conv={'channels': ['R', 'G', 'B']}).coverage == 1


def test_a_whole_model_takes_other_channels(tmp_path):
    rgb, ours = randomized(small_segmentor()), randomized(small_segmentor(), seed=3)
    file = saved(rgb, tmp_path / 'rgb.pth')
    load_pretrained(ours, file, first_conv={'channels': ['B', 'G', 'R']})
    assert difference(logits_of(ours, image().flip(1)), logits_of(rgb, image())) < 1e-5


def test_chosen_channels_are_taken_and_reported(rgb_weights):
    network, file = rgb_weights
    ours = build(**NARROW_RESNET)
    report = load_pretrained(ours, file, first_conv={'channels': ['B', 'G', 'R']})
    assert report.adapted == {'conv1.weight': 'input channels B, G, R'}
    torch.testing.assert_close(ours.conv1.weight, network.conv1.weight.flip(1))


@pytest.mark.parametrize(('theirs', 'ours'), [(1, 3), (4, 3), (3, 4)])
@pytest.mark.parametrize('min_coverage', [None, 0.9])
def test_first_conv_error_refuses_channels_of_either_side(tmp_path, theirs, ours, min_coverage):
    network = build(**NARROW_RESNET, in_channels=theirs)
    file = saved(network, tmp_path / 'weights.pth')
    settings = {'first_conv': 'error', 'min_coverage': min_coverage}
    message = (
        rf"{ours} input channels and the weights {theirs} \(first_conv='error'\)\. "
        rf"Set in_channels={theirs} .* first_conv='adapt'"
    )
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(build(**NARROW_RESNET, in_channels=ours), file, **settings)
    assert load_pretrained(network, file, **settings).coverage == 1


def test_another_number_of_named_channels_is_an_error(rgb_weights):
    ours = build(**NARROW_RESNET, in_channels=4)
    with pytest.raises(PretrainedWeightsError, match=r'names 2 channels \(R, G\), .* has 4'):
        load_pretrained(ours, rgb_weights[1], first_conv={'channels': ['R', 'G']})


def test_channels_named_for_weights_that_are_not_rgb_are_an_error(tmp_path):
    four = build(**NARROW_RESNET, in_channels=4)
    file = saved(four, tmp_path / 'four.pth')
    for ours, channels in ((four, ['R', 'G', 'B', 'mean']), (build(**NARROW_RESNET), COLOURS)):
        with pytest.raises(PretrainedWeightsError, match=r'4 channels.*not the RGB'):
            load_pretrained(ours, file, first_conv={'channels': channels})
