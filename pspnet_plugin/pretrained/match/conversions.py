"""Key names of other projects -> the names that MMSegmentation's modules have.

A :class:`Conversion` is a layout that other people's checkpoints come in: a signature that tells it
from the rest, and a table of rules. Order matters: the first conversion among equally good ones is
taken, the rules of one are applied one after the other.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Union

from ..errors import PretrainedWeightsError

# A replacement for re.sub, or a function of the match and of the module's own names.
Replacement = Union[str, Callable[[re.Match, tuple[str, ...]], str]]


@dataclass(frozen=True)
class Conversion:
    """One layout of names.

    ``signature`` are names (or beginnings of names, with a dot at the end) that all stand behind
    the same prefix in such a checkpoint; none means that the layout is always tried. ``rules`` are
    pairs of a regular expression and its replacement, applied to names without that prefix; without
    rules the names are right below a prefix that the search finds, and the layout only has a name.
    """

    name: str
    origin: str
    signature: tuple[str, ...] = ()
    rules: tuple[tuple[str, Replacement], ...] = ()

    def prefixes(self, names: Iterable[str]) -> list[str]:
        """The prefixes behind which the signature stands in ``names``, in order of appearance."""
        if not self.signature:
            return ['']
        names = list(names)
        first, *others = self.signature
        found = dict.fromkeys(p for name in names for p in _prefixes_before(first, name))
        return [p for p in found if all(_is_among(p + other, names) for other in others)]

    def rename(self, name: str, module_names: tuple[str, ...]) -> str:
        """The MMSeg name of ``name``, which has lost its prefix already."""
        for pattern, replacement in self.rules:
            if callable(replacement):
                name = re.sub(pattern, lambda m, r=replacement: r(m, module_names), name)
            else:
                name = re.sub(pattern, replacement, name)
        return name


def _prefixes_before(signature: str, name: str) -> Iterable[str]:
    """``'a.'`` for ``'b.c'`` in ``'a.b.c'``; a signature ending in a dot may go on in the name."""
    start = 0
    while (start := name.find(signature, start)) >= 0:
        at_boundary = start == 0 or name[start - 1] == '.'
        if at_boundary and (signature.endswith('.') or name.endswith(signature)):
            yield name[:start]
        start += 1


def _is_among(wanted: str, names: Sequence[str]) -> bool:
    if wanted.endswith('.'):
        return any(name.startswith(wanted) for name in names)
    return wanted in names


# --- replacements that need the module's names --------------------------------------------------


def _nth_block(match: re.Match, module_names: tuple[str, ...]) -> str:
    """EfficientNet counts its blocks through, timm counts stages and blocks within them."""
    found = (re.search(r'(?:^|\.)blocks\.(\d+)\.(\d+)\.', name) for name in module_names)
    blocks = sorted({(int(m.group(1)), int(m.group(2))) for m in found if m})
    index = int(match.group(1))
    if index >= len(blocks):
        return match.group(0)
    stage, block = blocks[index]
    return f'blocks.{stage}.{block}.'


def _joined(match: re.Match, module_names: tuple[str, ...]) -> str:
    """timm's features_only networks call a part ``stages.0`` of the whole network ``stages_0``."""
    joined = f'{match.group(1)}_{match.group(2)}'
    return f'{match.group(1)}_' if joined in _parts(module_names) else match.group(0)


@functools.lru_cache(maxsize=2)
def _parts(module_names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.partition('.')[0] for name in module_names)


def _averaged_buffer(match: re.Match, module_names: tuple[str, ...]) -> str:
    """mmcv 1.x named the average of ``a.b.weight`` as a buffer ``ema_a_b_weight``."""
    flat = match.group(1)
    for name in module_names:
        for full in (name, f'backbone.{name}'):
            if full.replace('.', '_') == flat:
                return full
    return flat


# --- the tables ---------------------------------------------------------------------------------

RESNET = ('conv1.weight', 'bn1.running_var', 'layer4.0.conv2.weight')
DEEP_STEM = ('conv1.6.weight', 'conv1.0.weight', 'bn1.running_var', 'layer4.0.conv2.weight')
EFFICIENTNET = ('_conv_stem.weight', '_bn0.running_var', '_blocks.0._depthwise_conv.weight')
# MMPretrain builds the deep stem of three modules with a convolution and a norm each.
MMPRETRAIN_STEM = (
    (r'^backbone\.', ''),
    (r'^stem\.2\.conv\.', 'stem.6.'),
    (r'^stem\.2\.bn\.', 'stem.7.'),
    (r'^stem\.1\.conv\.', 'stem.3.'),
    (r'^stem\.1\.bn\.', 'stem.4.'),
    (r'^stem\.0\.conv\.', 'stem.0.'),
    (r'^stem\.0\.bn\.', 'stem.1.'),
)

CONVERSIONS = (
    Conversion(
        'semseg',
        'PSPNets of hszhao/semseg',
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
    Conversion(
        'efficientnet-pytorch',
        'EfficientNet and EfficientNet-Lite in the naming of the efficientnet packages -> timm',
        EFFICIENTNET,
        (
            (r'^_conv_stem\.', 'conv_stem.'),
            (r'^_bn0\.', 'bn1.'),
            (r'^_conv_head\.', 'conv_head.'),
            (r'^_bn1\.', 'bn2.'),
            (r'^_fc\.', 'classifier.'),
            (r'^_blocks\.(\d+)\.', _nth_block),
            # The blocks of the first stage do not expand, so they have one convolution less.
            (r'^(blocks\.0\.\d+)\._depthwise_conv\.', r'\1.conv_dw.'),
            (r'^(blocks\.0\.\d+)\._bn1\.', r'\1.bn1.'),
            (r'^(blocks\.0\.\d+)\._project_conv\.', r'\1.conv_pw.'),
            (r'^(blocks\.0\.\d+)\._bn2\.', r'\1.bn2.'),
            (r'^(blocks\.\d+\.\d+)\._expand_conv\.', r'\1.conv_pw.'),
            (r'^(blocks\.\d+\.\d+)\._bn0\.', r'\1.bn1.'),
            (r'^(blocks\.\d+\.\d+)\._depthwise_conv\.', r'\1.conv_dw.'),
            (r'^(blocks\.\d+\.\d+)\._bn1\.', r'\1.bn2.'),
            (r'^(blocks\.\d+\.\d+)\._project_conv\.', r'\1.conv_pwl.'),
            (r'^(blocks\.\d+\.\d+)\._bn2\.', r'\1.bn3.'),
            (r'^(blocks\.\d+\.\d+)\._se_reduce\.', r'\1.se.conv_reduce.'),
            (r'^(blocks\.\d+\.\d+)\._se_expand\.', r'\1.se.conv_expand.'),
        ),
    ),
    Conversion(
        'timm-deep-stem',
        'timm ResNets with a stem of three convolutions, such as resnet50d and resnet50c',
        DEEP_STEM,
        ((r'^conv1\.', 'stem.'), (r'^bn1\.', 'stem.7.')),
    ),
    Conversion(
        'moco',
        'MoCo: the query encoder is a torchvision ResNet',
        tuple(f'encoder_q.{name}' for name in RESNET),
        ((r'^encoder_q\.', ''),),
    ),
    Conversion(
        'dino',
        'DINO: a backbone that is a torchvision ResNet, and a projection head',
        (*(f'backbone.{name}' for name in RESNET), 'head.last_layer.'),
    ),
    Conversion('mmseg', 'MMSegmentation models', ('decode_head.', 'backbone.')),
    Conversion(
        'mmpretrain-v1d',
        'MMPretrain classifiers that pool in their shortcuts, except in the first stage',
        ('backbone.layer2.0.downsample.2.weight', 'backbone.layer1.0.downsample.0.weight'),
        (
            *MMPRETRAIN_STEM,
            (r'^layer1\.0\.downsample\.1\.', 'layer1.0.downsample.2.'),
            (r'^layer1\.0\.downsample\.0\.', 'layer1.0.downsample.1.'),
        ),
    ),
    Conversion(
        'mmpretrain',
        'MMPretrain classifiers',
        ('head.fc.weight', 'backbone.'),
        MMPRETRAIN_STEM,
    ),
    Conversion(
        'torchvision-detection',
        'the backbone of torchvision detection models',
        ('backbone.body.',),
    ),
    Conversion(
        'torchvision-segmentation',
        'the backbone of torchvision segmentation models',
        ('classifier.0.', 'backbone.'),
    ),
    Conversion(
        'smp',
        'the encoder of segmentation_models.pytorch models',
        ('encoder.', 'segmentation_head.0.weight'),
    ),
    Conversion(
        'torchvision-resnet',
        'ResNet, ResNeXt and wide ResNet of torchvision and timm: the names are the same',
        (*RESNET, 'fc.weight'),
    ),
    Conversion('same-names', 'the names are those of the module already'),
    Conversion(
        'timm-features',
        'timm networks whose features_only form joins the first two parts of some names',
        (),
        ((r'(?:(?<=\.)|^)(\w+)\.(?=(\w+)\.)', _joined),),
    ),
    Conversion(
        'mmcv-ema',
        'averaged weights that stand alone, named ema_*',
        (),
        ((r'^(?:module\.)?ema_([^.]*)$', _averaged_buffer), (r'^(?:module\.)?ema_', '')),
    ),
)


def conversion_named(name: str) -> Conversion:
    """The conversion called ``name``.

    Raises:
        PretrainedWeightsError: there is none of that name.
    """
    for conversion in CONVERSIONS:
        if conversion.name == name:
            return conversion
    known = ', '.join(conversion.name for conversion in CONVERSIONS)
    raise PretrainedWeightsError(f'There is no conversion {name!r}. Use "auto" or one of: {known}.')
