"""What makes another network although names and shapes agree."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from ..match.search import Match, Shapes, is_counted

# timm's ResNets that blur or pool where they stride; their files hold nothing of it.
ANTI_ALIASED = re.compile(r'resnet(?:aa|blur)\d+\w*')


def anti_aliased(module: nn.Module, reference: str) -> str | None:
    """The name in ``reference`` of a network that only timm's own classes can build."""
    own = any(name.startswith('timm_model.') for name, _ in module.named_parameters())
    found = ANTI_ALIASED.search(reference)
    return found.group() if found and not own else None


def hidden_differences(module: nn.Module, conversion: str, reference: str) -> list[str]:
    """What may make another function of the same names and shapes, for a report's notes."""
    notes = []
    name = anti_aliased(module, reference)
    if name is not None:
        notes.append(f'{name} smooths where it strides, the module does not: another network')
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
