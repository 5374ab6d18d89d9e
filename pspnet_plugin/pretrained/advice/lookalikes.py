"""Networks of the same names and shapes that compute something else."""

from __future__ import annotations

import re

from torch import nn

from ..match.plan import LoadPlan
from ..settings import LoadSettings

# timm's ResNets that blur or pool where they stride; their files do not show it.
ANTI_ALIASED = re.compile(r'resnet(?:aa|blur)\d+[a-z]*')
PLAIN = 'a network without anti-aliased downsampling'
TIMM = re.compile(r'(?:timm://|hf://timm/)([^./@]+)')


def another_network(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> str | None:
    """Why the network of the weights is surely not the one that ``module`` is, and the way out."""
    own, told = architecture_of(module), TIMM.match(settings.checkpoint)
    theirs = told.group(1) if told else None
    if theirs and theirs != own and (own or ANTI_ALIASED.fullmatch(theirs)):
        why = (
            f'these are weights of {theirs} and the module is {own or PLAIN}. Set '
            f'model_name={theirs!r} in a TIMMBackbone, or take other weights.'
        )
    elif plan.match.conversion == 'efficientnet-pytorch' and own and not own.startswith('tf_'):
        why = (
            f'the network of these weights pads as TensorFlow does, and {own} does not. Set '
            f"model_name='tf_{own}' in the backbone."
        )
    else:
        return None
    return f'fits {type(module).__name__} by names and shapes and is another network: {why}'


def architecture_of(module: nn.Module) -> str | None:
    """The name by which timm has built ``module`` or its backbone; None for other modules."""
    backbone = getattr(module, 'backbone', module)
    config = getattr(getattr(backbone, 'timm_model', backbone), 'pretrained_cfg', None) or {}
    return config.get('architecture')


def notes_on(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> list[str]:
    """What may make another function of the same names and shapes."""
    notes = []
    conversion, backbone = plan.match.conversion, getattr(module, 'backbone', module)
    own, anti_aliased = architecture_of(module), ANTI_ALIASED.search(settings.checkpoint)
    if anti_aliased and anti_aliased.group() != own:
        notes.append(
            f'the file is called {anti_aliased.group()} and the module is {own or PLAIN}: another '
            'network'
        )
    style = getattr(backbone, 'style', None)
    if conversion.startswith('torchvision') and style == 'caffe':
        notes.append("torchvision puts the stride where style='pytorch' does; the module has caffe")
    if style == 'pytorch' and re.search(r'caffe|msra|detectron', settings.checkpoint):
        notes.append("weights of Caffe networks are made for style='caffe'; the module has pytorch")
    dilated = any(dilation > 1 for dilation in getattr(backbone, 'dilations', ()))
    trained_with = {'torchvision-segmentation': True, 'semseg': False, 'smp': False}.get(conversion)
    contracted = getattr(backbone, 'contract_dilation', trained_with)
    if dilated and trained_with is not None and bool(contracted) != trained_with:
        notes.append(
            'the networks that these weights are made for dilate as with '
            f'contract_dilation={trained_with}'
        )
    return notes
