"""Key names of other projects -> the names that MMSegmentation's modules have.

The first conversion among equally good ones is taken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from torch import Tensor

# A replacement for re.sub, or a function of the module's own names and of the match.
Replacement = Union[str, Callable[['tuple[str, ...]', re.Match], str]]
Rules = tuple[tuple[str, Replacement], ...]


@dataclass(frozen=True)
class Conversion:
    """One layout of names that other people's checkpoints come in."""

    name: str
    # Names, or beginnings of names that end in a dot, which all follow the same prefix in such a
    # checkpoint. A layout without a signature is always tried.
    signature: tuple[str, ...] = ()
    # Pairs of a regular expression and its replacement, applied to names without that prefix, one
    # after the other. A layout without rules has the module's names below some prefix. What is
    # renamed to nothing is left out. Two tensors that rules call ``NAME+0`` and ``NAME+1`` are the
    # parts of one.
    rules: Rules = ()
    # Pairs of a regular expression for names in the module, and what becomes of the value.
    changes: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = ()


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


def _stem_layer(_: tuple[str, ...], match: re.Match) -> str:
    """MMPretrain's deep stem has three modules, each of a convolution, a norm and an activation."""
    return f'stem.{3 * int(match.group(1)) + (match.group(2) == "bn")}.'


def _numbered(template: str, factor: float, offset: float) -> Replacement:
    """A replacement with a ``#`` for the group ``n`` times ``factor`` plus ``offset``."""

    def replace(_: tuple[str, ...], match: re.Match) -> str:
        return match.expand(template).replace('#', str(int(int(match['n']) * factor + offset)))

    return replace


# --- changed values -------------------------------------------------------------------------------


def _channels_first(tensor: Tensor) -> Tensor:
    """Swin joins four neighbours one after the other, MMSegmentation channel by channel."""
    if tensor.shape[-1] % 4:
        return tensor
    return tensor.reshape(*tensor.shape[:-1], 2, 2, -1).transpose(-1, -3).reshape(tensor.shape)


def _square(tensor: Tensor) -> Tensor:
    side = math.isqrt(tensor.numel())
    return tensor.reshape(side, side) if side * side == tensor.numel() else tensor


# --- the tables ---------------------------------------------------------------------------------

RESNET = ('conv1.weight', 'bn1.running_var', 'layer4.0.conv2.weight')
SWIN: Rules = (
    (r'^.*\.attn_mask$', ''),  # made of the image size
    (r'^norm\.', 'norm3.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^layers\.', 'stages.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.(?:fc1|0)\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.(?:fc2|3)\.', '.ffn.layers.1.'),
)
SWIN_VALUES = (
    (r'\.downsample\.', _channels_first),
    (r'\.relative_position_index$', _square),
)
VIT: Rules = (
    (r'^norm\.', 'ln1.'),
    (r'^(?:norm_pre|pre_norm)\.', 'ln_pre.'),
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^blocks\.', 'layers.'),
    (r'\.norm([12])\.', r'.ln\1.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
    (r'\.attn\.qkv\.', '.attn.attn.in_proj_'),
    (r'\.attn\.proj\.', '.attn.attn.out_proj.'),
)
# torchvision's ConvNeXt in the names of its authors, and these in MMPretrain's and timm's.
TORCHVISION_CONVNEXT: Rules = (
    (r'^features\.0\.', 'downsample_layers.0.'),
    (r'^features\.(?P<n>[246])\.', _numbered('downsample_layers.#.', 1 / 2, 0)),
    (r'^features\.(?P<n>[1357])\.', _numbered('stages.#.', 1 / 2, 0)),
    (r'\.block\.0\.', '.dwconv.'),
    (r'\.block\.2\.', '.norm.'),
    (r'\.block\.3\.', '.pwconv1.'),
    (r'\.block\.5\.', '.pwconv2.'),
    (r'\.layer_scale$', '.gamma'),
    (r'^classifier\.0\.', 'norm.'),
)
CONVNEXT: Rules = (
    (r'\.dwconv\.', '.depthwise_conv.'),
    (r'\.pwconv([12])\.', r'.pointwise_conv\1.'),
    (r'^norm\.', 'norm3.'),
)
CONVNEXT_TIMM: Rules = (
    (r'^downsample_layers\.0\.(\d)\.', r'stem_\1.'),
    (r'^downsample_layers\.(\d)\.', r'stages_\1.downsample.'),
    (r'^stages\.(\d)\.', r'stages_\1.blocks.'),
    (r'\.dwconv\.', '.conv_dw.'),
    (r'\.pwconv([12])\.', r'.mlp.fc\1.'),
)
TORCHVISION_CONVNEXT_NAMES = ('features.1.0.layer_scale', 'features.0.0.weight')
CONVNEXT_NAMES = ('stages.0.0.dwconv.weight', 'downsample_layers.0.0.weight')
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
    # ResNets of transformers and of detectron2.
    Conversion(
        'transformers-resnet',
        ('embedder.embedder.convolution.weight', 'encoder.stages.0.layers.0.layer.0.convolution.'),
        (
            (r'^embedder\.embedder\.convolution\.', 'conv1.'),
            (r'^embedder\.embedder\.normalization\.', 'bn1.'),
            (r'^encoder\.stages\.(?P<n>\d)\.layers\.', _numbered('layer#.', 1, 1)),
            (r'\.shortcut\.convolution\.', '.downsample.0.'),
            (r'\.shortcut\.normalization\.', '.downsample.1.'),
            (r'\.layer\.(?P<n>\d)\.convolution\.', _numbered('.conv#.', 1, 1)),
            (r'\.layer\.(?P<n>\d)\.normalization\.', _numbered('.bn#.', 1, 1)),
        ),
    ),
    Conversion(
        'detectron2',
        ('stem.conv1.norm.weight', 'res3.0.shortcut.weight', 'res5.0.conv1.norm.weight'),
        (
            (r'^stem\.conv1\.norm\.', 'bn1.'),
            (r'^stem\.conv1\.', 'conv1.'),
            (r'^res(?P<n>\d)\.', _numbered('layer#.', 1, -1)),
            (r'\.conv(\d)\.norm\.', r'.bn\1.'),
            (r'\.shortcut\.norm\.', '.downsample.1.'),
            (r'\.shortcut\.', '.downsample.0.'),
        ),
    ),
    # SegFormer's encoder by its authors.
    Conversion(
        'mit',
        ('patch_embed1.proj.weight', 'block1.0.attn.q.weight', 'block1.0.attn.kv.weight'),
        (
            (r'^patch_embed(?P<n>\d)\.proj\.', _numbered('layers.#.0.projection.', 1, -1)),
            (r'^patch_embed(?P<n>\d)\.', _numbered('layers.#.0.', 1, -1)),
            (r'^block(?P<n>\d)\.', _numbered('layers.#.1.', 1, -1)),
            (r'^norm(?P<n>\d)\.', _numbered('layers.#.2.', 1, -1)),
            (r'\.attn\.q\.(\w+)$', r'.attn.attn.in_proj_\1+0'),
            (r'\.attn\.kv\.(\w+)$', r'.attn.attn.in_proj_\1+1'),
            (r'\.attn\.proj\.', '.attn.attn.out_proj.'),
            (r'\.mlp\.fc1\.', '.ffn.layers.0.'),
            (r'\.mlp\.dwconv\.dwconv\.', '.ffn.layers.1.'),
            (r'\.mlp\.fc2\.', '.ffn.layers.4.'),
        ),
    ),
    # Swin by its authors, in timm, which has the same layers one stage later, and in torchvision.
    Conversion(
        'swin', ('layers.0.downsample.reduction.weight', 'patch_embed.proj.'), SWIN, SWIN_VALUES
    ),
    Conversion(
        'timm-swin',
        ('layers.3.downsample.reduction.weight', 'patch_embed.proj.'),
        ((r'^layers\.(?P<n>\d)\.(?=downsample)', _numbered('stages.#.', 1, -1)), *SWIN),
        SWIN_VALUES,
    ),
    Conversion(
        'torchvision-swin',
        ('features.2.reduction.weight', 'features.1.0.attn.relative_position_bias_table'),
        (
            (r'^features\.0\.0\.', 'patch_embed.projection.'),
            (r'^features\.0\.2\.', 'patch_embed.norm.'),
            (r'^features\.(?P<n>[246])\.', _numbered('stages.#.downsample.', 1 / 2, -1)),
            (r'^features\.(?P<n>[1357])\.', _numbered('stages.#.blocks.', 1 / 2, 0)),
            *SWIN,
        ),
        SWIN_VALUES,
    ),
    # Vision transformers of timm and MMPretrain.
    Conversion('vit', ('blocks.0.attn.qkv.weight', 'patch_embed.proj.', 'blocks.0.mlp.fc1.'), VIT),
    Conversion('mmpretrain-vit', ('layers.0.attn.qkv.weight', 'layers.0.ffn.', 'ln1.'), VIT),
    # ConvNeXt by its authors and in torchvision, into MMPretrain's and timm's.
    Conversion('convnext', CONVNEXT_NAMES, CONVNEXT),
    Conversion('convnext-timm', CONVNEXT_NAMES, CONVNEXT_TIMM),
    Conversion('torchvision-convnext', TORCHVISION_CONVNEXT_NAMES, TORCHVISION_CONVNEXT + CONVNEXT),
    Conversion(
        'torchvision-convnext-timm',
        TORCHVISION_CONVNEXT_NAMES,
        TORCHVISION_CONVNEXT + CONVNEXT_TIMM,
    ),
    Conversion('same-names'),
    # timm's networks whose features_only form joins the first two parts of some names.
    Conversion('timm-features', rules=((r'(?:(?<=\.)|^)(\w+)\.(?=(\w+)\.)', _joined),)),
)
BY_NAME = {conversion.name: conversion for conversion in CONVERSIONS}
