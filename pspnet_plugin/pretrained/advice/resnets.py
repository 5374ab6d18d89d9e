"""Which ResNet a checkpoint holds and which one a module is, by names and shapes."""

from __future__ import annotations

import re

from ..match.search import Shapes, is_counted

RESNET_DEPTHS: dict[tuple, int] = {
    ('basic', 2, 2, 2, 2): 18,
    ('basic', 3, 4, 6, 3): 34,
    ('bottleneck', 3, 4, 6, 3): 50,
    ('bottleneck', 3, 4, 23, 3): 101,
    ('bottleneck', 3, 8, 36, 3): 152,
}
RESNET_STAGES = ('layer1', 'layer2', 'layer3', 'layer4')
CONVERTED_V1C = ('ResNet-18', 'ResNet-50', 'ResNet-101')


def about_depth(theirs: Shapes, ours: Shapes) -> str | None:
    """Other numbers of blocks, or ResNets of other blocks."""
    blocks = _blocks(theirs), _blocks(ours)
    names = _resnet_name(theirs), _resnet_name(ours)
    differing = [row for row in blocks[1] if blocks[0].get(row, blocks[1][row]) != blocks[1][row]]
    other_kind = _has_bottlenecks(theirs) != _has_bottlenecks(ours)
    if None not in names and (differing or other_kind):
        said = [f'is {name}' for name in names]
    elif differing:
        said = [f'has {side[differing[0]]} blocks in {differing[0]}' for side in blocks]
    else:
        return None
    return (
        f'The weights are of another depth: the checkpoint {said[0]}, the module {said[1]}. '
        'Set the depth of the backbone or take other weights.'
    )


def _blocks(shapes: Shapes) -> dict[str, int]:
    """How many blocks stand in a row, by the name of the row: ``{'layer1': 3}``."""
    blocks: dict[str, int] = {}
    for name in filter(is_counted, shapes):
        # A block has parts, which tells it from the layers of a small sequence.
        for found in re.finditer(r'\.(\d+)(?=\.\w+\.\w+)', name):
            row = name[: found.start()]
            blocks[row] = max(blocks.get(row, 0), int(found.group(1)) + 1)
    return blocks


def _resnet_name(shapes: Shapes) -> str | None:
    """``'ResNet-50'``, or the blocks of an unusual one; None where it is no ResNet."""
    if 'layer1.0.conv1.weight' not in shapes:
        return None
    kind = 'bottleneck' if _has_bottlenecks(shapes) else 'basic'
    blocks = _blocks(shapes)
    depths = tuple(blocks[stage] for stage in RESNET_STAGES if stage in blocks)
    known = RESNET_DEPTHS.get((kind, *depths))
    return f'ResNet-{known}' if known else f'a ResNet with {kind} blocks {list(depths)}'


def _has_bottlenecks(shapes: Shapes) -> bool:
    return 'layer1.0.conv3.weight' in shapes


def about_stem(theirs: Shapes, ours: Shapes) -> str | None:
    """One convolution in the stem of a ResNet or three, and how wide those are."""
    their_stem, our_stem = _stem_widths(theirs), _stem_widths(ours)
    if our_stem and not their_stem and 'conv1.weight' in theirs:
        name = _resnet_name(ours)
        example = ''
        if name in CONVERTED_V1C:
            example = f', such as open-mmlab://{name.lower().replace("-", "")}_v1c'
        return (
            'The module has a deep stem of three convolutions (ResNetV1c, ResNetV1d) and the '
            'checkpoint one convolution, conv1. Set the backbone\'s type to "ResNet", or take '
            f'weights of a deep stem{example}.'
        )
    if not their_stem or their_stem == our_stem:
        return None
    first, second, last = their_stem
    if first != second or last != 2 * first:
        return (
            f'The three convolutions of the stem have {first}, {second} and {last} channels in the '
            'checkpoint, which ResNetV1c and ResNetV1d cannot build. Take a TIMMBackbone with the '
            "model_name of the weights, or a plain ResNet's weights."
        )
    if our_stem:
        return (
            f'The stems differ in width: {first} channels in the checkpoint, {our_stem[0]} '
            f'in the module. Set stem_channels={last} in the backbone.'
        )
    if 'conv1.weight' not in ours:
        return None
    kind = 'ResNetV1d' if 'layer2.0.downsample.2.weight' in theirs else 'ResNetV1c'
    width = '' if last == 64 else f' with stem_channels={last}'
    return (
        'The checkpoint has a deep stem of three convolutions and the module one, conv1. Set the '
        f'backbone\'s type to "{kind}"{width}, or take weights of a plain ResNet.'
    )


def _stem_widths(shapes: Shapes) -> tuple[int, ...]:
    """Channels of the three convolutions of a deep stem; empty without one."""
    for layer in ('stem', 'conv1'):
        names = [f'{layer}.{index}.weight' for index in (0, 3, 6)]
        if all(name in shapes for name in names):
            return tuple(shapes[name][0] for name in names)
    return ()


def about_downsampling(theirs: Shapes, ours: Shapes) -> str | None:
    """Shortcuts of a ResNet that pool before they convolve."""
    pooled, plain = 'layer2.0.downsample.2.weight', 'layer2.0.downsample.0.weight'
    if pooled in theirs and plain in ours:
        return (
            'The checkpoint pools in its shortcuts and the module does not. '
            'Set the backbone\'s type to "ResNetV1d".'
        )
    if pooled in ours and plain in theirs:
        return (
            'The module pools in its shortcuts (ResNetV1d) and the checkpoint does not. Set the '
            'backbone\'s type to "ResNetV1c" or "ResNet", or take weights of a V1d network.'
        )
    return None
