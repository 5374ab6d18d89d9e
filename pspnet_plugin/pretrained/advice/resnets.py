"""Which ResNet a checkpoint holds and which one a module is, by names and shapes."""

from __future__ import annotations

import re

from ..match.search import Shapes, is_counted

BOTTLENECK = 'layer1.0.conv3.weight'


def about_depth(theirs: Shapes, ours: Shapes) -> str | None:
    """Other numbers of blocks, or ResNets of other blocks."""
    names = _resnet_name(theirs), _resnet_name(ours)
    blocks = _blocks(theirs), _blocks(ours)
    differing = [row for row in blocks[1] if blocks[0].get(row, blocks[1][row]) != blocks[1][row]]
    if None not in names and (differing or (BOTTLENECK in theirs) != (BOTTLENECK in ours)):
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
    """``'ResNet-50'``: the number counts the convolutions of the blocks, the stem and the head."""
    if 'layer1.0.conv1.weight' not in shapes:
        return None
    in_block = 3 if BOTTLENECK in shapes else 2
    blocks = sum(count for row, count in _blocks(shapes).items() if re.fullmatch(r'layer\d', row))
    return f'ResNet-{2 + in_block * blocks}'


def about_stem(theirs: Shapes, ours: Shapes) -> str | None:
    """One convolution in the stem of a ResNet or three, and how wide those are."""
    their_stem, our_stem = _stem_widths(theirs), _stem_widths(ours)
    if our_stem and not their_stem and 'conv1.weight' in theirs:
        return (
            'The module has a deep stem of three convolutions (ResNetV1c, ResNetV1d) and the '
            'checkpoint one convolution, conv1. Set the backbone\'s type to "ResNet", or take '
            'weights of a deep stem, such as open-mmlab://resnet50_v1c.'
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
    if not our_stem and 'conv1.weight' not in ours:
        return None
    kind = 'ResNetV1d' if 'layer2.0.downsample.2.weight' in theirs else 'ResNetV1c'
    return (
        f'The checkpoint has a deep stem of three convolutions, the first of {first} channels, and '
        f'the module {f"one of {our_stem[0]}" if our_stem else "one convolution, conv1"}. Set the '
        f'backbone\'s type to "{kind}" with stem_channels={last}, or take other weights.'
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
        what, kind = 'The checkpoint pools in its shortcuts and the module does not', '"ResNetV1d"'
    elif pooled in ours and plain in theirs:
        what, kind = 'The module pools in its shortcuts and the checkpoint does not', '"ResNetV1c"'
    else:
        return None
    return f"{what}. Set the backbone's type to {kind}, or take other weights."
