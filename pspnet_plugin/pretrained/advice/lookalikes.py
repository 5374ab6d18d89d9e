"""Networks of the same names and shapes that compute something else."""

from __future__ import annotations

import re

from torch import nn

from ..match.search import Match, Shapes, is_counted, parents_of

# timm's ResNets that blur or pool where they stride; their files do not show it.
ANTI_ALIASED = re.compile(r'resnet(?:aa|blur)\d+\w*')


def another_network(module: nn.Module, reference: str) -> str | None:
    """Why the network of a reference is surely not the one that ``module`` is."""
    name = _anti_aliased(module, reference)
    if name is None or not reference.startswith('timm://'):
        return None
    return (
        f'fits {type(module).__name__} by names and shapes and is another network: {name} has '
        "anti-aliased downsampling, which its file does not show. Set the backbone's type to "
        f'"TIMMBackbone" with model_name={name!r}, or take weights of a plain ResNet.'
    )


def _anti_aliased(module: nn.Module, reference: str) -> str | None:
    """The name in ``reference`` of a network that only timm's own classes can build."""
    own = any(name.startswith('timm_model.') for name, _ in module.named_parameters())
    found = ANTI_ALIASED.search(reference)
    return found.group() if found and not own else None


def notes_on(module: nn.Module, conversion: str, reference: str) -> list[str]:
    """What may make another function of the same names and shapes, for a report's notes."""
    notes = []
    name = _anti_aliased(module, reference)
    if name is not None:
        notes.append(f'{name} has anti-aliased downsampling, the module has not: another network')
    backbone = getattr(module, 'backbone', module)
    style = getattr(backbone, 'style', None)
    if conversion.startswith('torchvision') and style == 'caffe':
        notes.append("torchvision puts the stride where style='pytorch' does; the module has caffe")
    if style == 'pytorch' and re.search(r'caffe|msra|detectron', reference):
        notes.append("weights of Caffe networks are made for style='caffe'; the module has pytorch")
    dilated = any(dilation > 1 for dilation in getattr(backbone, 'dilations', ()))
    trained_with = {'torchvision-segmentation': True, 'semseg': False}.get(conversion)
    contracted = getattr(backbone, 'contract_dilation', trained_with)
    if dilated and trained_with is not None and bool(contracted) != trained_with:
        notes.append(
            f'these weights were trained with what MMSeg calls contract_dilation={trained_with}'
        )
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
        for parent in parents_of(name):
            last_below[parent] = index
    inner = []
    for original, name in match.nearby.items():
        parent = next((p for p in reversed(parents_of(name)) if p in last_below), '')
        at_root = parent in ('', match.module_prefix.rstrip('.'))
        if is_counted(name) and not at_root and last_below[parent] < last_received:
            inner.append(original)
    return inner
