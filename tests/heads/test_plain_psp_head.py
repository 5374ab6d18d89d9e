"""``PlainPSPHead`` against the pyramid as tutorials write it."""

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from mmseg.registry import MODELS

from pspnet_plugin.heads import PlainPSPHead
from tests.helpers.heads import BN, assert_equal_results, both_heads, run


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    batch=st.integers(1, 3),
    in_channels=st.integers(4, 11),
    pool_scales=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    align_corners=st.booleans(),
)
def test_plain_head_is_the_tutorials_pyramid(size, batch, in_channels, pool_scales, align_corners):
    torch.manual_seed(0)
    tutorial, ours = both_heads(
        'plain', in_channels=in_channels, pool_scales=pool_scales, align_corners=align_corners
    )
    x = torch.randn(batch, in_channels, *size, dtype=torch.float64)
    assert_equal_results(run(ours.double(), x), run(tutorial.double(), x))


def test_plain_head_has_a_biased_convolution_per_level_and_one_to_the_classes():
    config = {
        'type': 'PlainPSPHead',
        'in_channels': 2048,
        'channels': 512,
        'num_classes': 19,
        'norm_cfg': BN,
    }
    head = MODELS.build(config)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters()}
    assert shapes.pop('conv_seg.weight') == (19, 4096, 1, 1)
    assert shapes.pop('conv_seg.bias') == (19,)
    assert sorted(shapes.values()) == [(512,)] * 4 + [(512, 2048, 1, 1)] * 4


def test_plain_head_drops_whole_channels():
    torch.manual_seed(0)
    head = PlainPSPHead(8, num_classes=3, dropout_ratio=0.5).train()
    dropped = []
    head.dropout.register_forward_hook(lambda module, args, output: dropped.append(output))
    x = torch.rand(2, 8, 7, 9) + 1
    out = head([x])
    assert {(part == 0).all().item() for part in dropped[0].flatten(0, 1)} == {True, False}
    size = x.shape[2:]
    upsampled = [F.interpolate(part, size, mode='bilinear') for part in dropped[1:]]
    torch.testing.assert_close(
        out, F.conv2d(torch.cat([dropped[0], *upsampled], 1), *head.conv_seg.parameters())
    )
