"""Why weights do not fit a module: the likeliest cause and the setting that mends it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from ...utils.text import shortened
from ..match.input_channels import first_convolution
from ..match.plan import LoadPlan
from ..match.search import Match, Shapes, find_match, is_counted, parents_of, reachable, shapes_of
from ..source.read import Checkpoint, below
from .resnets import about_depth, about_downsampling, about_stem

ATTENTION = re.compile(r'\.se(?:_module|_layer)?\.')
POSITIONS = re.compile(r'pos(?:ition)?_?embed')


def likeliest_cause(plan: LoadPlan) -> str:
    """One or two sentences on why ``plan`` leaves the module uncovered, and what mends it."""
    match, shapes, module_shapes = plan.match, plan.shapes, plan.module_shapes
    # As the module would say them, so that other projects' names are understood as well.
    named = {**match.names, **{name: original for original, name in match.nearby.items()}}
    theirs = _backbone_of({n: shapes[o] for n, o in named.items()}, match.module_prefix)
    ours = _backbone_of(module_shapes, match.module_prefix)
    return (
        about_depth(theirs, ours)
        or about_stem(theirs, ours)
        or about_downsampling(theirs, ours)
        or _about_attention(plan, ours)
        or _about_heads(match, shapes, module_shapes)
        or _about_tensors(plan, module_shapes)
        or _about_missing(plan)
        or _about_names(match, shapes, module_shapes)
    )


def why_empty(path: str, content: Checkpoint, module_shapes: Shapes) -> str:
    """Why a file has no state dict, with the prefix that reaches one elsewhere in it."""
    if not content.everything:
        return (
            f'{path} holds no tensors by name. Save model.state_dict() again; numpy arrays become '
            'tensors by torch.as_tensor(array).'
        )
    keys = list(dict.fromkeys(name.partition('.')[0] for name in content.everything))
    advice = prefix_that_fits(content, module_shapes) or (
        ' No tensor there fits the module. If these are its weights under other names, say by '
        'prefix="KEY." which key and by key_map=[(pattern, replacement)] how names translate.'
    )
    return (
        f'{path} has its tensors under the unexpected top-level key '
        f'{" and ".join(repr(key) for key in keys[:5])}.{advice}'
    )


def prefix_that_fits(
    content: Checkpoint, module_shapes: Shapes, prefix: str | None = None, fitting: int = 0
) -> str:
    """Advice on another prefix, behind which more than ``fitting`` tensors of a whole file fit."""
    found = find_match(reachable(content), shapes_of(content.everything), module_shapes)
    other = found.root or None
    if other == prefix or found.fitting <= fitting:
        return ''
    return f" Say prefix={other!r}: {found.fitting} of the module's tensors fit there."


def _backbone_of(shapes: Shapes, module_prefix: str) -> Shapes:
    own = below(module_prefix, shapes)
    return below('backbone.', own) or own


def _about_attention(plan: LoadPlan, ours: Shapes) -> str | None:
    layers = [original for original in plan.match.nearby if ATTENTION.search(original)]
    if not layers or any(map(ATTENTION.search, ours)) or not _mostly_fits(plan):
        return None
    return (
        f'The checkpoint has attention layers in its blocks, such as {layers[0]}, and the module '
        'has none. Take a TIMMBackbone with the model_name of the weights, or weights of a network '
        'without them.'
    )


def _mostly_fits(plan: LoadPlan) -> bool:
    return 2 * plan.match.fitting >= plan.expected


def _about_heads(match: Match, shapes: Shapes, module_shapes: Shapes) -> str | None:
    children = dict.fromkeys(name.partition('.')[0] for name in module_shapes)
    found = {name.partition('.')[0] for name in match.names}
    empty = [child for child in children if child not in found]
    if 'backbone' in found and empty:
        what = f'The checkpoint has nothing for {" and ".join(empty)}. To load the backbone only'
    elif 'backbone' in children and not any('backbone' in name for name in shapes):
        what = 'The module is a whole model and the checkpoint is not. To load its backbone'
    else:
        return None
    return f"{what}, give the init_cfg to the backbone (module='backbone' in the hook)."


def _about_missing(plan: LoadPlan) -> str | None:
    """What is missing, where most of the network is there."""
    missing = plan.named('missing')
    if not missing or not _mostly_fits(plan):
        return None
    found = {part for name in plan.match.names for part in (*parents_of(name), name)}
    # Of each the largest part that is absent as a whole.
    parts = ((*parents_of(name), name) for name in missing)
    absent = dict.fromkeys(next(p for p in own if p not in found) for own in parts)
    return (
        f'The checkpoint has nothing for {shortened(list(absent))}. Take weights that have it, or '
        'say by key_map=[(pattern, replacement)] what it is called there.'
    )


def _about_tensors(plan: LoadPlan, module_shapes: Shapes) -> str | None:
    """The first tensor that is there and does not fit."""
    mismatched = plan.named('mismatched')
    name = next(filter(is_counted, mismatched), None)
    # A few names such as norm1.weight are in any network.
    if name is None or 2 * len(plan.match.names) < plan.expected:
        return None
    theirs, ours = mismatched[name]
    original = plan.match.names[name]
    if isinstance(theirs, str):
        return (
            f'{original} holds {theirs} numbers in the checkpoint and {ours} in the module. Save '
            'plain numbers of that kind: those before quantization, tensor.to_dense() of a sparse '
            'one, and no tensor of the meta device, which has none.'
        )
    said = f'{original} is {theirs} in the checkpoint and {ours} in the module.'
    first = first_convolution(module_shapes)
    if POSITIONS.search(name) and len(theirs) == len(ours) == 3 and theirs[::2] == ours[::2]:
        return said + _about_positions(theirs[1], module_shapes[first] if first else None)
    if name == first and theirs[:1] + theirs[2:] == ours[:1] + ours[2:]:
        return said + _about_channels(theirs[1], ours[1])
    return (
        f'The names agree and the shapes do not: {said} It is another width or another kind of '
        'network: take the weights of this one.'
    )


def _about_positions(tokens: int, first_shape: Sequence[int] | None) -> str:
    cause = ' The position embedding is that of another image size. '
    grid = math.isqrt(tokens)  # of patches, beside which are a few tokens more
    if first_shape is None or tokens - grid**2 > 5:
        return cause + 'Set img_size in the backbone to that of the weights.'
    return (
        f'{cause}Set img_size={grid * first_shape[-1]} in the backbone (a TIMMBackbone needs '
        'dynamic_img_size=True as well); images of other sizes have it interpolated in each pass.'
    )


def _about_channels(theirs: int, ours: int) -> str:
    adapted = '' if ours == 3 else f', which first_conv adapts to {ours} channels'
    return (
        f' The weights are for {theirs} input channels and the module for {ours}. Set '
        f'in_channels={theirs} in the backbone, or take RGB weights{adapted}.'
    )


def _about_names(match: Match, shapes: Shapes, module_shapes: Shapes) -> str:
    return (
        f'The names have {"little" if match.fitting else "nothing"} in common: the checkpoint has '
        f'{_examples(shapes)}, the module {_examples(module_shapes)}. Take the weights of this '
        'network, or say by key_map=[(pattern, replacement)] how the names translate.'
    )


def _examples(names: Iterable[str]) -> str:
    shown = [name for name in names if is_counted(name)]
    return ', '.join(shown[:: max(1, len(shown) // 3)][:3])
