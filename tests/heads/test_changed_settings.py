"""Settings that are changed after a head is built, and numbers that are not finite."""

import pytest
import torch
import torch.nn.functional as F

from pspnet_plugin.heads.convolutions import PyramidConv2d
from pspnet_plugin.ops.conv2d import conv2d_same
from pspnet_plugin.ops.winograd import pays
from tests.helpers.heads import FAMILIES, both_heads
from tests.helpers.maps import random_map

SIDES = (24, 12, 6)
OF_ONE_MAP = ('psp', 'plain')
families = pytest.mark.parametrize('family', [name for name in FAMILIES if name != 'plain'])


def inputs_of(family, dtype=torch.float64):
    sides = SIDES[:1] if family in OF_ONE_MAP else SIDES
    maps = [
        random_map(2, 6, side, side, dtype=dtype, seed=i).detach() for i, side in enumerate(sides)
    ]
    more = [torch.randn(2, 3, *SIDES[:1] * 2, dtype=dtype)] if family == 'ocr' else []
    return maps, more


def pyramid_convolutions(head, our_head):
    """The convolutions of both heads that take a pyramid in ours."""
    names = [name for name, m in our_head.named_modules() if isinstance(m, PyramidConv2d)]
    assert names
    return [head.get_submodule(name) for name in names]


def set_on_convolutions(name, value):
    def change(head, our_head):
        for conv in pyramid_convolutions(head, our_head):
            setattr(conv, name, value)

    return change


def set_align_corners(head, our_head):
    head.align_corners = True
    if hasattr(head, 'psp_modules'):
        head.psp_modules.align_corners = True


CHANGES = {
    'circular padding': set_on_convolutions('padding_mode', 'circular'),
    'reflected padding': set_on_convolutions('padding_mode', 'reflect'),
    'dilation': lambda head, ours: [
        (setattr(conv, 'dilation', (2, 2)), setattr(conv, 'padding', (2, 2)))
        for conv in pyramid_convolutions(head, ours)
        if conv.kernel_size == (3, 3)
    ],
    'align_corners': set_align_corners,
}


@families
@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_what_is_set_after_building_counts_as_in_stock(family, change):
    torch.manual_seed(0)
    stock, ours = both_heads(family)
    for head in (stock, ours):
        head.double().eval()
        change(head, ours)
    maps, more = inputs_of(family)
    torch.testing.assert_close(ours(maps, *more), stock(maps, *more), rtol=1e-10, atol=1e-10)


@families
def test_a_patched_convolution_gets_a_tensor(family):
    torch.manual_seed(0)
    _, ours = both_heads(family)
    seen = []
    for conv in pyramid_convolutions(ours, ours):

        def patched(x, weight, bias):
            seen.append(x)
            return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

        conv._conv_forward = patched
    maps, more = inputs_of(family, torch.float32)
    ours.eval()(maps, *more)
    assert seen
    assert all(isinstance(x, torch.Tensor) for x in seen)


@families
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('place', ['finest', 'coarsest'])
def test_what_is_not_finite_spreads_no_farther_than_in_stock(family, value, place):
    torch.manual_seed(0)
    stock, ours = (head.double().eval() for head in both_heads(family))
    maps, more = inputs_of(family)
    maps[0 if place == 'finest' else -1][0, 1, 2, 3] = value
    expected, found = stock(maps, *more), ours(maps, *more)
    spoilt = ~expected.isfinite()
    assert spoilt.any()
    # Stock also interpolates the map that has the size already: 0 times infinity beside each.
    assert not (~found.isfinite() & ~spoilt).any()
    if place == 'coarsest':
        assert torch.equal(~found.isfinite(), spoilt)
    kept = ~spoilt
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-10, atol=1e-10)


def test_tiles_do_not_spread_what_is_not_finite():
    x = random_map(1, 256, 40, 40, dtype=torch.float32).detach()
    weight = random_map(256, 256, 3, 3, dtype=torch.float32, seed=1).detach()
    assert pays(x, weight)
    x[0, 3, 20, 20] = float('nan')
    expected = F.conv2d(x, weight, padding=1)
    assert torch.equal(conv2d_same(x, weight).isnan(), expected.isnan())
