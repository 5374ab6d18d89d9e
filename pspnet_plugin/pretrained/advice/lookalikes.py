"""Networks of the same names and shapes that compute something else."""

from __future__ import annotations

import importlib
import re

from torch import nn

from ..match.plan import LoadPlan
from ..match.search import Match, Shapes, find_match, is_counted, parents_of, reachable, shapes_of
from ..settings import LoadSettings
from ..source.read import Checkpoint

# timm's ResNets that blur or pool where they stride; their files do not show it.
ANTI_ALIASED = re.compile(r'resnet(?:aa|blur)\d+\w*')
PLAIN = 'a network without anti-aliased downsampling'
TIMM = re.compile(r'(?:timm://|hf://timm/)([^./@]+)')
# What stands behind an HRNet that upsamples by nearest neighbours: the classifiers of its authors,
# timm and MMPretrain, the weights that MMPose starts from, MMPose's and MMDetection's models.
OTHER_HRNETS = re.compile(
    r'(?:^|\.)(?:incre_modules|increase_layers|(?:|keypoint_|bbox_|rpn_)head)\.'
)


def another_network(module: nn.Module, plan: LoadPlan, settings: LoadSettings) -> str | None:
    """Why the network of the weights is surely not the one that ``module`` is, and the way out."""
    own, told = architecture_of(module), TIMM.match(settings.checkpoint)
    theirs = told.group(1) if told else None
    padding = _padding_of(plan)
    why = ''
    if theirs and theirs != own and (own or ANTI_ALIASED.fullmatch(theirs)):
        why = (
            f'these are weights of {theirs} and the module is {own or PLAIN}. Set '
            f'model_name={theirs!r} in a TIMMBackbone, or take other weights.'
        )
    elif own and padding and own.startswith('tf_') != (padding == 'TensorFlow'):
        other = own[3:] if own.startswith('tf_') else f'tf_{own}'
        why = (
            f'the network of these weights pads as {padding} does, and {own} does not. Set '
            f'model_name={other!r} in the backbone.'
        )
    elif settings.min_coverage is None and _interpolates_otherwise(module, plan):
        why = (
            'this HRNet is none of a segmentation model and upsamples by nearest neighbours, '
            "MMSegmentation's bilinearly. Take a TIMMBackbone with the model_name of the weights, "
            'or say min_coverage=1 to fine-tune from them nevertheless.'
        )
    name = type(module).__name__
    return f'fits {name} by names and shapes and is another network: {why}' if why else None


def architecture_of(module: nn.Module) -> str | None:
    """The name by which timm has built ``module`` or its backbone; None for other modules."""
    backbone = getattr(module, 'backbone', module)
    config = getattr(getattr(backbone, 'timm_model', backbone), 'pretrained_cfg', None) or {}
    return config.get('architecture')


def architecture_in(reference: str) -> str | None:
    """timm's architecture that a reference names, or with which the name of its file begins."""
    told = TIMM.match(reference)
    if told:
        return told.group(1)
    timm = importlib.import_module('timm')
    name = re.split(r'[/\\]', reference)[-1].removeprefix('timm--').partition('.')[0]
    ends = [len(name), *(match.start() for match in reversed(list(re.finditer(r'[\W_]', name))))]
    return next((name[:end] for end in ends if timm.get_pretrained_cfg(name[:end])), None)


def _padding_of(plan: LoadPlan) -> str | None:
    """Whose padding the EfficientNet of the weights has, as far as the names of the file tell."""
    if plan.match.conversion == 'efficientnet-pytorch':
        return 'TensorFlow'
    # A `timm-efficientnet` encoder of smp's. In a `tu-` one, which is timm's own, `model.` stands
    # between.
    stem = 'encoder.conv_stem.weight'
    smp = plan.match.conversion == 'smp' and any(n.endswith(stem) for n in plan.candidates.tensors)
    return 'PyTorch' if smp else None


def _interpolates_otherwise(module: nn.Module, plan: LoadPlan) -> bool:
    fused = (part for name, part in module.named_modules() if '.fuse_layers.' in name)
    bilinear = any(getattr(part, 'mode', None) == 'bilinear' for part in fused)
    return bilinear and any(map(OTHER_HRNETS.search, plan.candidates.tensors))


def notes_on(module: nn.Module, conversion: str, reference: str) -> list[str]:
    """What may make another function of the same names and shapes, for a report's notes."""
    notes = []
    own, backbone = architecture_of(module), getattr(module, 'backbone', module)
    anti_aliased = ANTI_ALIASED.search(reference)
    theirs = architecture_in(reference) if own else anti_aliased and anti_aliased.group()
    if theirs and theirs != own:
        notes.append(
            f'the file is called {theirs} and the module is {own or PLAIN}: another network'
        )
    style = getattr(backbone, 'style', None)
    if conversion.startswith('torchvision') and style == 'caffe':
        notes.append("torchvision puts the stride where style='pytorch' does; the module has caffe")
    if style == 'pytorch' and re.search(r'caffe|msra|detectron', reference):
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


def inner_left_over(match: Match, module_shapes: Shapes) -> list[str]:
    """Names in the file that stand inside layers which the module has and goes on after.

    Weights of a deeper network, or of one with more in each block, fill a module completely and
    still make another function of it. Tensors behind the module's last layer (a classifier, other
    heads) are none of these.
    """
    order = {name: index for index, name in enumerate(module_shapes)}
    last_received = max((order[name] for name in match.names if is_counted(name)), default=-1)
    last_below = {parent: index for name, index in order.items() for parent in parents_of(name)}
    inner = []
    for original, name in match.nearby.items():
        parent = next((p for p in reversed(parents_of(name)) if p in last_below), '')
        at_root = parent in ('', match.module_prefix.rstrip('.'))
        if is_counted(name) and not at_root and last_below[parent] < last_received:
            inner.append(original)
    return inner


def second_networks(plan: LoadPlan, content: Checkpoint) -> list[str]:
    """A note on another network in the file that fills the module like the one that was taken.

    Such are a student and its teacher, an encoder and its average.
    """
    taken = set(plan.match.names.values())
    others = {name: path for name, path in reachable(content).items() if name not in taken}
    found = find_match(others, shapes_of(content.everything), plan.module_shapes)
    if not 0 < plan.match.fitting <= found.fitting:
        return []
    if found.conversion == 'mmcv-ema':
        return [
            "the names without 'ema_' were taken and those with it fit as well: "
            "key_map=[('^(?!(?:module\\.)?ema_)', None)] takes those"
        ]
    if found.root in ('', plan.match.root):
        return []
    return [
        f'{plan.match.root or plan.candidates.container!r} was taken and {found.root!r} fits as '
        f'well: prefix={found.root!r} takes that'
    ]
