"""Which network a checkpoint holds and which one a module is, by names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..match.search import Shapes, is_counted

RESNET_DEPTHS = {
    ('basic', 2, 2, 2, 2): 18,
    ('basic', 3, 4, 6, 3): 34,
    ('bottleneck', 3, 4, 6, 3): 50,
    ('bottleneck', 3, 4, 23, 3): 101,
    ('bottleneck', 3, 8, 36, 3): 152,
}
RESNET_STAGES = ('layer1', 'layer2', 'layer3', 'layer4')
CONVERTED_V1C = (18, 50, 101)


def about_depth(theirs: Shapes, ours: Shapes) -> str | None:
    """Other numbers of blocks, or ResNets of other blocks."""
    their_blocks, our_blocks = _blocks(theirs), _blocks(ours)
    kinds = _resnet_kind(theirs), _resnet_kind(ours)
    differing = [at for at in our_blocks if their_blocks.get(at, our_blocks[at]) != our_blocks[at]]
    if None not in kinds and (differing or kinds[0] != kinds[1]):
        said = [_resnet_name(k, b) for k, b in zip(kinds, (their_blocks, our_blocks))]
    elif differing:
        at = differing[0]
        said = [f'{blocks[at]} blocks in {at}' for blocks in (their_blocks, our_blocks)]
    else:
        return None
    verb = 'is' if None not in kinds else 'has'
    return (
        f'The weights are of another depth: the checkpoint {verb} {said[0]}, the module {verb} '
        f'{said[1]}. Set the depth of the backbone or take other weights.'
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


def _resnet_kind(shapes: Shapes) -> str | None:
    if 'layer1.0.conv1.weight' not in shapes:
        return None
    return 'bottleneck' if 'layer1.0.conv3.weight' in shapes else 'basic'


def _resnet_name(kind: str, blocks: Mapping[str, int]) -> str:
    depth = tuple(blocks[stage] for stage in RESNET_STAGES if stage in blocks)
    known = RESNET_DEPTHS.get((kind, *depth))
    named = f'a network with {kind} blocks {", ".join(map(str, depth))}'
    return f'ResNet-{known}' if known else named


def about_stem(theirs: Shapes, ours: Shapes) -> str | None:
    """One convolution in the stem of a ResNet or three, and how wide those are."""
    their_stem, our_stem = _stem_widths(theirs), _stem_widths(ours)
    if our_stem and not their_stem and 'conv1.weight' in theirs:
        depth = RESNET_DEPTHS.get((_resnet_kind(ours), *map(_blocks(ours).get, RESNET_STAGES)))
        example = f', such as open-mmlab://resnet{depth}_v1c' if depth in CONVERTED_V1C else ''
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
    if not our_stem and 'conv1.weight' in ours:
        pools = 'layer2.0.downsample.2.weight' in theirs
        return (
            'The checkpoint has a deep stem of three convolutions and the module one, conv1. '
            f'Set the backbone\'s type to "ResNetV1{"d" if pools else "c"}"'
            f'{_stem_setting(last)}, or take weights of a plain ResNet.'
        )
    if our_stem:
        return (
            f'The stems differ in width: {first} channels in the checkpoint, {our_stem[0]} '
            f'in the module. Set stem_channels={last} in the backbone.'
        )
    return None


def _stem_setting(width: int) -> str:
    return '' if width == 64 else f' with stem_channels={width}'


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
