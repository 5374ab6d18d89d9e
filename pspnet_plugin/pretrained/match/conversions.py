"""Key names of other projects -> the names that MMSegmentation's modules have.

The first conversion among equally good ones is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

# A replacement for re.sub, or a function of the module's own names and of the match.
Replacement = Union[str, Callable[['tuple[str, ...]', re.Match], str]]


@dataclass(frozen=True)
class Conversion:
    """One layout of names that other people's checkpoints come in."""

    name: str
    # Names, or beginnings of names that end in a dot, which all follow the same prefix in such a
    # checkpoint. A layout without a signature is always tried.
    signature: tuple[str, ...] = ()
    # Pairs of a regular expression and its replacement, applied to names without that prefix, one
    # after the other. A layout without rules has the module's names below some prefix.
    rules: tuple[tuple[str, Replacement], ...] = ()


# --- computed replacements ------------------------------------------------------------------------


def _nth_block(module_names: tuple[str, ...], match: re.Match) -> str:
    """EfficientNet numbers its blocks from first to last, timm by stage and block in the stage."""
    found = (re.search(r'(?:^|\.)blocks\.(\d+)\.(\d+)\.', name) for name in module_names)
    blocks = sorted({(int(m.group(1)), int(m.group(2))) for m in found if m})
    index = int(match.group(1))
    return 'blocks.{}.{}.'.format(*blocks[index]) if index < len(blocks) else match.group(0)


def _joined(module_names: tuple[str, ...], match: re.Match) -> str:
    """timm's features_only networks call a part ``stages.0`` of the whole network ``stages_0``."""
    joined = f'{match.group(1)}_{match.group(2)}.'
    is_own = any(name.startswith(joined) for name in module_names)
    return f'{match.group(1)}_' if is_own else match.group(0)


def _averaged_buffer(module_names: tuple[str, ...], match: re.Match) -> str:
    """mmcv 1.x named the average of ``a.b.weight`` as a buffer ``ema_a_b_weight``."""
    full = (path for name in module_names for path in (name, f'backbone.{name}'))
    return next((p for p in full if p.replace('.', '_') == match.group(1)), match.group(1))


def _stem_layer(_: tuple[str, ...], match: re.Match) -> str:
    """MMPretrain's deep stem has three modules, each of a convolution, a norm and an activation."""
    return f'stem.{3 * int(match.group(1)) + (match.group(2) == "bn")}.'


# --- the tables ---------------------------------------------------------------------------------

RESNET = ('conv1.weight', 'bn1.running_var', 'layer4.0.conv2.weight')
MMPRETRAIN = ((r'^backbone\.', ''), (r'^stem\.(\d)\.(conv|bn)\.', _stem_layer))

CONVERSIONS = (
    # PSPNets of hszhao/semseg, whole models.
    Conversion(
        'semseg',
        ('layer0.0.weight', 'ppm.features.0.1.weight', 'cls.0.weight'),
        (
            (r'^layer0\.(\d+)\.', r'backbone.stem.\1.'),
            (r'^layer([1-4])\.', r'backbone.layer\1.'),
            (r'^ppm\.features\.(\d+)\.1\.', r'decode_head.psp_modules.\1.1.conv.'),
            (r'^ppm\.features\.(\d+)\.2\.', r'decode_head.psp_modules.\1.1.bn.'),
            (r'^cls\.0\.', 'decode_head.bottleneck.conv.'),
            (r'^cls\.1\.', 'decode_head.bottleneck.bn.'),
            (r'^cls\.4\.', 'decode_head.conv_seg.'),
            (r'^aux\.0\.', 'auxiliary_head.convs.0.conv.'),
            (r'^aux\.1\.', 'auxiliary_head.convs.0.bn.'),
            (r'^aux\.4\.', 'auxiliary_head.conv_seg.'),
        ),
    ),
    # EfficientNet and EfficientNet-Lite in the naming of the efficientnet packages -> timm.
    Conversion(
        'efficientnet-pytorch',
        ('_conv_stem.weight', '_bn0.running_var', '_blocks.0._depthwise_conv.weight'),
        (
            (r'^_(conv_stem|conv_head)\.', r'\1.'),
            (r'^_bn1\.', 'bn2.'),
            (r'^_bn0\.', 'bn1.'),
            (r'^_fc\.', 'classifier.'),
            (r'^_blocks\.(\d+)\.', _nth_block),
            (r'\._se_(reduce|expand)\.', r'.se.conv_\1.'),
            # The blocks of the first stage do not expand, so they have one convolution less.
            (r'^(blocks\.0\.\d+)\._bn([12])\.', r'\1.bn\2.'),
            (r'^(blocks\.0\.\d+)\._project_conv\.', r'\1.conv_pw.'),
            (r'\._expand_conv\.', '.conv_pw.'),
            (r'\._depthwise_conv\.', '.conv_dw.'),
            (r'\._project_conv\.', '.conv_pwl.'),
            (r'\._bn2\.', '.bn3.'),
            (r'\._bn1\.', '.bn2.'),
            (r'\._bn0\.', '.bn1.'),
        ),
    ),
    # timm's ResNets with a stem of three convolutions, such as resnet50d and resnet50c.
    Conversion(
        'timm-deep-stem',
        ('conv1.6.weight', 'conv1.0.weight', *RESNET[1:]),
        ((r'^conv1\.', 'stem.'), (r'^bn1\.', 'stem.7.')),
    ),
    # MoCo: the query encoder is a torchvision ResNet.
    Conversion('moco', tuple(f'encoder_q.{name}' for name in RESNET), ((r'^encoder_q\.', ''),)),
    # DINO: a backbone that is a torchvision ResNet, and a projection head.
    Conversion('dino', (*(f'backbone.{name}' for name in RESNET), 'head.last_layer.')),
    # MMSegmentation's own models.
    Conversion('mmseg', ('decode_head.', 'backbone.')),
    # MMPretrain's classifiers with ResNetV1d: shortcuts pool, except in the first stage.
    Conversion(
        'mmpretrain-v1d',
        ('backbone.layer2.0.downsample.2.weight', 'backbone.layer1.0.downsample.0.weight'),
        (
            *MMPRETRAIN,
            (r'^layer1\.0\.downsample\.1\.', 'layer1.0.downsample.2.'),
            (r'^layer1\.0\.downsample\.0\.', 'layer1.0.downsample.1.'),
        ),
    ),
    # MMPretrain's other classifiers.
    Conversion('mmpretrain', ('head.fc.weight', 'backbone.'), MMPRETRAIN),
    # The backbone of torchvision's detection and segmentation models.
    Conversion('torchvision-detection', ('backbone.body.',)),
    Conversion('torchvision-segmentation', ('classifier.0.', 'backbone.')),
    # The encoder of segmentation_models.pytorch's models.
    Conversion('smp', ('encoder.', 'segmentation_head.0.weight')),
    # ResNet, ResNeXt and wide ResNet of torchvision and timm: the names are MMSegmentation's.
    Conversion('torchvision-resnet', (*RESNET, 'fc.weight')),
    Conversion('same-names'),
    # timm's networks whose features_only form joins the first two parts of some names.
    Conversion('timm-features', rules=((r'(?:(?<=\.)|^)(\w+)\.(?=(\w+)\.)', _joined),)),
    # Averaged weights that stand alone, named ema_*.
    Conversion(
        'mmcv-ema',
        rules=((r'^(?:module\.)?ema_([^.]*)$', _averaged_buffer), (r'^(?:module\.)?ema_', '')),
    ),
)
BY_NAME = {conversion.name: conversion for conversion in CONVERSIONS}
