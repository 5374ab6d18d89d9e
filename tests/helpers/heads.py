"""Small decode heads, and the results in which one is compared with another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads import FCNHead, OCRHead, PSPHead, SegformerHead, UPerHead
from torch import nn

from pspnet_plugin.heads import (
    FactorizedFCNHead,
    FactorizedOCRHead,
    FactorizedPSPHead,
    FactorizedSegformerHead,
    FactorizedUPerHead,
    PlainPSPHead,
)

BN = {'type': 'BN'}
HOOK_KINDS = ('forward_hook', 'forward_pre_hook', 'full_backward_hook', 'full_backward_pre_hook')
SMALL = {'in_channels': 6, 'channels': 4, 'num_classes': 3, 'norm_cfg': BN, 'dropout_ratio': 0}
OF_MAPS = {**SMALL, 'in_channels': [6, 6, 6], 'in_index': [0, 1, 2]}
CONCATENATED = {**OF_MAPS, 'input_transform': 'resize_concat'}


class TutorialPSPHead(PlainPSPHead):
    """The pyramid as tutorials write it, with the parameters of ``PlainPSPHead``."""

    def forward(self, inputs):
        x = inputs[-1]
        parts = [x]
        for conv, bins in zip(self.psp_modules, self.pool_scales):
            level = conv(F.adaptive_avg_pool2d(x, bins))
            size, align_corners = x.shape[2:], self.align_corners
            parts.append(F.interpolate(level, size, None, 'bilinear', align_corners))
        weight, bias = self.conv_seg.weight, self.conv_seg.bias
        return F.conv2d(torch.cat(parts, dim=1), weight, bias, (1, 1), (0, 0), (1, 1), 1)


# Stock's class, ours, and the arguments of a small one. Those of several maps take three.
FAMILIES = {
    'psp': (PSPHead, FactorizedPSPHead, SMALL),
    'plain': (TutorialPSPHead, PlainPSPHead, SMALL),
    'uper': (UPerHead, FactorizedUPerHead, {**OF_MAPS, 'pool_scales': (1, 2)}),
    'segformer': (SegformerHead, FactorizedSegformerHead, OF_MAPS),
    'fcn': (FCNHead, FactorizedFCNHead, {**CONCATENATED, 'concat_input': False}),
    'hrnet': (
        FCNHead,
        FactorizedFCNHead,
        {**CONCATENATED, 'concat_input': False, 'kernel_size': 1, 'num_convs': 1},
    ),
    'ocr': (OCRHead, FactorizedOCRHead, {**CONCATENATED, 'ocr_channels': 5}),
}


def both_heads(family, **kwargs):
    """mmseg's head and ours with the same random parameters, statistics included."""
    stock_class, our_class, small = FAMILIES[family]
    return same_heads(stock_class, our_class, {**small, **kwargs})


def same_heads(stock_class, our_class, config):
    """The same for any two classes."""
    stock, ours = stock_class(**config), our_class(**config)
    for module in stock.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    ours.load_state_dict(stock.state_dict(), strict=True)
    return stock, ours


class OfOneMap(nn.Module):
    """A head of three maps, called with one of which it takes every second and fourth pixel."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, inputs):
        x = inputs[-1]
        return self.head([x, F.avg_pool2d(x, 1, 2), F.avg_pool2d(x, 1, 4)])


def run(head, *maps, more=()):
    """The output, and the gradients of the maps and of every parameter for one random gradient."""
    maps = [x.detach().clone().requires_grad_() for x in maps]
    out = head(maps, *more)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    out.backward(gradient.to(out))
    results = {'output': out.detach()}
    results.update((f'x{i or ""}', x.grad) for i, x in enumerate(maps))
    results.update((name, parameter.grad) for name, parameter in head.named_parameters())
    return results


def assert_equal_results(ours, stock, tolerance=1e-10):
    """Each result relative to its own size, but for gradients that are nothing but rounding."""
    assert ours.keys() == stock.keys()
    largest = max(expected.abs().max() for expected in stock.values() if expected is not None)
    for name, expected in stock.items():
        if expected is None:  # no gradient
            assert ours[name] is None, name
            continue
        error = (ours[name] - expected).abs().max()
        assert error <= tolerance * expected.abs().max() + 1e-13 * largest, name
