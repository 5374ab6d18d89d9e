"""``PlainPSPHead`` against the pyramid written out plainly."""

import copy

import hypothesis.strategies as st
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from mmseg.registry import MODELS
from torch import nn

from pspnet_plugin.heads import PlainPSPHead
from tests.helpers.heads import BN, assert_equal_results, run


def plain_pyramid(head, x):
    """The tutorial's forward pass with the parameters of ``head``."""
    parts = [x]
    for conv, bins in zip(head.psp_modules, head.pool_scales):
        level = conv(F.adaptive_avg_pool2d(x, bins))
        parts.append(
            F.interpolate(level, x.shape[2:], mode='bilinear', align_corners=head.align_corners)
        )
    weight, bias = head.conv_seg.weight, head.conv_seg.bias
    return F.conv2d(torch.cat(parts, dim=1), weight, bias)


class TutorialHead(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = copy.deepcopy(head)

    def named_parameters(self):
        return self.head.named_parameters()

    def forward(self, inputs):
        return plain_pyramid(self.head, inputs[-1])


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
    head = PlainPSPHead(in_channels, pool_scales, num_classes=3, align_corners=align_corners)
    x = torch.randn(batch, in_channels, *size, dtype=torch.float64)
    assert_equal_results(run(head.double(), x), run(TutorialHead(head), x))


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
