"""Why weights do not fit a module: the likeliest cause and the setting that mends it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..match.adapt import first_convolution
from ..match.plan import LoadPlan
from ..match.search import Shapes, below, is_counted, shapes_of

PUBLISHED_DEPTHS = (18, 26, 34, 50, 101, 152, 200, 269)


def likeliest_cause(plan: LoadPlan) -> str:
    """One or two sentences on why ``plan`` leaves the module uncovered, and what mends it."""
    return (
        another_backbone(plan) or _about_heads(plan) or _about_a_tensor(plan) or _about_names(plan)
    )


# --- ResNets, and other networks of blocks ------------------------------------------------------


def another_backbone(plan: LoadPlan) -> str | None:
    """The settings of the backbone that the weights were made with, where the module has others."""
    match = plan.match
    # As the module would say them, so that other projects' names are understood as well.
    named = {name: entry.tensor for name, entry in match.names.items()}
    named.update((name, match.tensors[original]) for original, name in match.unknown.items())
    theirs = _backbone_of(shapes_of(named), plan)
    ours = _backbone_of(shapes_of(plan.own), plan)
    if _resnet_settings(theirs) and _resnet_settings(ours):
        return _between_resnets(_resnet_settings(theirs), _resnet_settings(ours))
    there, here = _blocks(theirs), _blocks(ours)
    for row in here:
        if there.get(row, here[row]) != here[row]:
            return (
                f'The weights are of another depth: the checkpoint has {there[row]} blocks in '
                f'{row}, the module has {here[row]}. Set the depth of the backbone or take '
                'other weights.'
            )
    return None


def _backbone_of(shapes: Shapes, plan: LoadPlan) -> Shapes:
    own = below(plan.match.module_prefix, shapes)
    return below('backbone.', own) or own


def _between_resnets(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    differing = [name for name in there if there[name] != here.get(name)]
    if not differing:
        return None
    theirs, ours = (
        ', '.join(f'{name}={side[name]!r}' for name in differing if name in side)
        for side in (there, here)
    )
    published = here.get('type') == 'ResNetV1c' and here.get('depth') in (18, 50, 101)
    such_as = f', such as open-mmlab://resnet{here["depth"]}_v1c' if published else ''
    return (
        f'The weights are those of a ResNet with {theirs}; the module has {ours}. Set {theirs} in '
        f'the backbone, or take other weights{such_as}.'
    )


def _resnet_settings(shapes: Shapes) -> dict[str, Any]:
    """The settings by which MMSegmentation builds a ResNet; empty for another network.

    The type says how many convolutions the stem has, and whether the shortcuts pool (ResNetV1d).
    """
    if 'layer1.0.conv1.weight' not in shapes:
        return {}
    in_block = 3 if 'layer1.0.conv3.weight' in shapes else 2
    blocks = [_blocks(shapes).get(f'layer{stage}', 0) for stage in (1, 2, 3, 4)]
    depth = 2 + in_block * sum(blocks)
    settings: dict[str, Any] = {'depth': depth} if depth in PUBLISHED_DEPTHS else {}
    for layer in ('stem', 'conv1'):
        convolutions = [shapes.get(f'{layer}.{index}.weight') for index in (0, 3, 6)]
        if all(convolutions):
            first, second, last = (shape[0] for shape in convolutions if shape)
            if first != second or last != 2 * first:
                return {}
            pools = 'layer2.0.downsample.2.weight' in shapes
            settings |= {'type': 'ResNetV1d' if pools else 'ResNetV1c', 'stem_channels': last}
    if 'conv1.weight' in shapes:
        settings['type'] = 'ResNet'
    return settings


def _blocks(shapes: Shapes) -> dict[str, int]:
    """How many blocks stand in a row, by the name of the row: ``{'layer1': 3}``."""
    blocks: dict[str, int] = {}
    for name in filter(is_counted, shapes):
        # A block has parts, which tells it from the layers of a small sequence.
        for found in re.finditer(r'\.(\d+)(?=\.\w+\.\w+)', name):
            row = name[: found.start()]
            blocks[row] = max(blocks.get(row, 0), int(found.group(1)) + 1)
    return blocks


# --- other causes -------------------------------------------------------------------------------


def _about_heads(plan: LoadPlan) -> str | None:
    children = dict.fromkeys(name.partition('.')[0] for name in plan.own)
    found = {name.partition('.')[0] for name in plan.match.names}
    empty = [child for child in children if child not in found]
    if 'backbone' in found and empty:
        what = f'The checkpoint has nothing for {" and ".join(empty)}. To load the backbone only'
    elif 'backbone' in children and not any('backbone' in name for name in plan.match.tensors):
        what = 'The module is a whole model and the checkpoint is not. To load its backbone'
    else:
        return None
    return f"{what}, give the init_cfg to the backbone (module='backbone' in the hook)."


def _about_a_tensor(plan: LoadPlan) -> str | None:
    """The first tensor that is there and does not fit."""
    name = next(filter(is_counted, plan.mismatched), None)
    # A few names such as norm1.weight are in any network.
    if name is None or 2 * len(plan.match.names) < plan.expected:
        return None
    theirs, ours = plan.mismatched[name]
    if isinstance(theirs, str):
        return 'Save plain numbers, such as those before quantization.'
    if 'pos_embed' in name:
        setting = 'pretrain_img_size' if 'absolute_pos_embed' in name else 'img_size'
        return f'Set {setting} in the backbone to that of the weights.'
    if 'relative_position' in name and theirs[1:] == ours[1:]:
        return (
            'The weights are for windows of another size. Set window_size, or the img_size that '
            'the windows follow, in the backbone to that of the weights.'
        )
    is_first = name == first_convolution(shapes_of(plan.own))
    if is_first and theirs[:1] + theirs[2:] == ours[:1] + ours[2:]:
        # A stem may see the pixels of a square of the image as channels, as that of TResNet does.
        square = 16 if theirs[1] == 3 * 16 and ours[1] % 16 == 0 else 1
        there, here = theirs[1] // square, ours[1] // square
        adapted = '' if here == 3 else f', which first_conv adapts to {here} channels'
        otherwise = '' if square > 1 else f', or take RGB weights{adapted}'
        return (
            f'The weights are for {there} input channels and the module for {here}. Set '
            f'in_channels={there} in the backbone{otherwise}.'
        )
    return (
        'The names agree and the shapes do not: it is another width or another kind of network. '
        'Take the weights of this one.'
    )


def _about_names(plan: LoadPlan) -> str:
    if 2 * plan.match.fitting >= plan.expected and not plan.mismatched:
        return 'Take weights that have what is missing, or say by key_map what it is called.'
    return (
        f'The names have {"little" if plan.match.fitting else "nothing"} in common: the checkpoint '
        f'has {_examples(plan.match.tensors)}, the module {_examples(plan.own)}. Take the weights '
        'of this network, or say by key_map=[(pattern, replacement)] how the names translate.'
    )


def _examples(names: Iterable[str]) -> str:
    shown = [name for name in names if is_counted(name)]
    return ', '.join(shown[:: max(1, len(shown) // 3)][:3])
