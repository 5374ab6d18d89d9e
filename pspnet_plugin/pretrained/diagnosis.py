"""Why weights do not fit a module: the likeliest cause and the setting that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from .matching import Match, Shapes, is_counted

RESNET_DEPTHS = {
    ('basic', 2, 2, 2, 2): 18,
    ('basic', 3, 4, 6, 3): 34,
    ('bottleneck', 3, 4, 6, 3): 50,
    ('bottleneck', 3, 4, 23, 3): 101,
    ('bottleneck', 3, 8, 36, 3): 152,
}
DETECTION = re.compile(r'(?:^|\.)(?:rpn|roi_heads?|rpn_head|bbox_head|mask_head)\.')


def likeliest_cause(
    match: Match, shapes: Shapes, module_shapes: Shapes, renamed: Mapping[str, str]
) -> str:
    """One or two sentences on why ``match`` leaves the module uncovered.

    Args:
        match: the best match that was found.
        shapes: shape of each tensor in the file, by its name there.
        module_shapes: shape of each tensor of the module.
        renamed: name after prefix and key map -> name in the file, as the match was searched with.
    """
    theirs = {
        name[len(match.prefix) :]: shapes[o]
        for name, o in renamed.items()
        if name.startswith(match.prefix)
    }
    ours = {name[len(match.module_prefix) :]: shape for name, shape in module_shapes.items()}
    return (
        _about_depth(theirs, ours)
        or _about_stem(theirs, ours)
        or _about_downsampling(theirs, ours)
        or _about_detection(renamed)
        or _about_heads(match, renamed, module_shapes)
        or _about_shapes(match, shapes, module_shapes)
        or _about_names(match, renamed, module_shapes)
    )


def hidden_differences(module: nn.Module, conversion: str, reference: str) -> list[str]:
    """What may make another function of the same names and shapes, for a report's notes."""
    notes = []
    module = getattr(module, 'backbone', module)
    torchvision = conversion.startswith('torchvision')
    style = getattr(module, 'style', None)
    if torchvision and style == 'caffe':
        notes.append("torchvision puts the stride where style='pytorch' does; the module has caffe")
    if style == 'pytorch' and re.search(r'caffe|msra|detectron', reference):
        notes.append("weights of Caffe networks are made for style='caffe'; the module has pytorch")
    dilated = any(dilation > 1 for dilation in getattr(module, 'dilations', ()))
    contracted = getattr(module, 'contract_dilation', None)
    if conversion == 'torchvision-segmentation' and dilated and contracted is False:
        notes.append('these weights were trained with what MMSeg calls contract_dilation=True')
    if conversion == 'semseg' and dilated and contracted:
        notes.append('these weights were trained with what MMSeg calls contract_dilation=False')
    return notes


def inner_left_over(match: Match, module_shapes: Shapes) -> list[str]:
    """Names in the file that stand inside layers which the module has and goes on after.

    Weights of a deeper network, or of one with more in each block, fill a module completely and
    still make another function of it. Tensors behind the module's last layer (a classifier, other
    heads) are none of these.
    """
    order = {name: index for index, name in enumerate(module_shapes)}
    last_received = max((order[name] for name in match.names if is_counted(name)), default=-1)
    last_below: dict[str, int] = {}
    for name, index in order.items():
        for parent in _parents(name):
            last_below[parent] = index
    inner = []
    for original, name in match.nearby.items():
        parent = next((p for p in _parents(name) if p in last_below), None)
        at_root = parent in (None, match.module_prefix.rstrip('.'))
        if is_counted(name) and not at_root and last_below[parent] < last_received:
            inner.append(original)
    return inner


def _parents(name: str) -> Iterable[str]:
    while '.' in name:
        name = name.rpartition('.')[0]
        yield name


def _depth(shapes: Shapes) -> tuple | None:
    blocks = [0, 0, 0, 0]
    for name in shapes:
        found = re.match(r'layer([1-4])\.(\d+)\.', name)
        if found:
            stage = int(found.group(1)) - 1
            blocks[stage] = max(blocks[stage], int(found.group(2)) + 1)
    if not any(blocks):
        return None
    kind = 'bottleneck' if 'layer1.0.conv3.weight' in shapes else 'basic'
    return (kind, *blocks)


def _depth_name(depth: tuple) -> str:
    known = RESNET_DEPTHS.get(depth)
    blocks = ', '.join(map(str, depth[1:]))
    return f'ResNet-{known}' if known else f'a network with {depth[0]} blocks {blocks}'


def _about_depth(theirs: Shapes, ours: Shapes) -> str | None:
    their_depth, our_depth = _depth(theirs), _depth(ours)
    if their_depth is None or our_depth is None:
        return None
    shared = [(a, b) for a, b in zip(their_depth[1:], our_depth[1:]) if a and b]
    if their_depth[0] == our_depth[0] and all(a == b for a, b in shared):
        return None
    return (
        f'The weights are of another depth: the checkpoint is {_depth_name(their_depth)}, the '
        f'module is {_depth_name(our_depth)}. Set the depth of the backbone or take other weights.'
    )


def _about_stem(theirs: Shapes, ours: Shapes) -> str | None:
    their_stem = theirs.get('stem.0.weight') or theirs.get('conv1.0.weight')
    our_stem = ours.get('stem.0.weight')
    if our_stem and not their_stem and 'conv1.weight' in theirs:
        return (
            'The module has a deep stem of three convolutions (ResNetV1c, ResNetV1d) and the '
            'checkpoint one convolution, conv1. Set the backbone\'s type to "ResNet", or take '
            'weights of a deep stem, such as open-mmlab://resnet50_v1c.'
        )
    if their_stem and not our_stem and 'conv1.weight' in ours:
        return (
            'The checkpoint has a deep stem of three convolutions and the module one, conv1. '
            'Set the backbone\'s type to "ResNetV1c" (or "ResNetV1d" where the shortcuts pool), or '
            'take weights of a plain ResNet.'
        )
    if our_stem and their_stem and our_stem[0] != their_stem[0]:
        return (
            f'The stems differ in width: {their_stem[0]} channels in the checkpoint, {our_stem[0]} '
            f'in the module. Set stem_channels={2 * their_stem[0]} in the backbone.'
        )
    return None


def _about_downsampling(theirs: Shapes, ours: Shapes) -> str | None:
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


def _about_detection(names: Iterable[str]) -> str | None:
    if any(DETECTION.search(name) for name in names):
        return (
            'These are the weights of a detector, and its backbone is not the one of the module. '
            'Take classification weights, or the detector with the same backbone.'
        )
    return None


def _about_heads(match: Match, renamed: Mapping[str, str], module_shapes: Shapes) -> str | None:
    children = dict.fromkeys(name.partition('.')[0] for name in module_shapes)
    found = {name.partition('.')[0] for name in match.names}
    empty = [child for child in children if child not in found]
    if 'backbone' in found and empty:
        return (
            f'The checkpoint has nothing for {" and ".join(empty)}. To load the backbone only, '
            "give the init_cfg to the backbone (module='backbone' in the hook)."
        )
    if 'backbone' in children and not any('backbone' in name for name in renamed):
        return (
            'The module is a whole model and the checkpoint is not. Give the init_cfg to the '
            "backbone (module='backbone' in the hook)."
        )
    return None


def _about_shapes(match: Match, shapes: Shapes, module_shapes: Shapes) -> str | None:
    for name, original in match.names.items():
        if is_counted(name) and shapes[original] != module_shapes[name]:
            return (
                f'The names agree and the shapes do not: {original} is {list(shapes[original])} in '
                f'the checkpoint and {list(module_shapes[name])} in the module. It is another '
                'width or another kind of network: take the weights of this one.'
            )
    return None


def _about_names(match: Match, renamed: Mapping[str, str], module_shapes: Shapes) -> str:
    return (
        f'The names have {"little" if match.fitting else "nothing"} in common: the checkpoint has '
        f'{_examples(renamed)}, the module {_examples(module_shapes)}. Take the weights of this '
        'network, or say by key_map=[(pattern, replacement)] how the names translate.'
    )


def _examples(names: Iterable[str]) -> str:
    shown = [name for name in names if is_counted(name)]
    picked: Sequence[str] = shown[:: max(1, len(shown) // 3)][:3]
    return ', '.join(picked)
