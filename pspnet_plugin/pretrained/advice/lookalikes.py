"""Networks of the same names and shapes that compute something else.

:data:`LOOKALIKES` says by what each is recognized, what differs, and what mends it.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..match.adapt import COLOURS, channels_of, default_sources, image_convolutions
from ..match.plan import LoadPlan
from ..settings import LoadSettings

TIMM = re.compile(r'(?:timm://|hf://timm/)([^./@]+)')
# timm's ResNets that blur or pool where they stride; their files do not show it.
ANTI_ALIASED = re.compile(r'resnet(?:aa|blur)\d+[a-z]*')
# What stands behind an HRNet that upsamples by nearest neighbours: the classifiers of its authors,
# timm and MMPretrain, the weights that MMPose starts from, MMPose's and MMDetection's models.
OTHER_HRNETS = r'(?:^|\.)(?:incre_modules|increase_layers|(?:|keypoint_|bbox_|rpn_)head)\.'
# What contract_dilation is in the dilated ResNets that come in these layouts.
CONTRACTIONS = {'torchvision-segmentation': True, 'semseg': False, 'smp': False}
OTHER_PADDING = r'(?:legacy_)?xception|inception_(?:v4|resnet_v2)'
STANDARDIZED = re.compile(r'Std|WS')  # StdConv2d, ScaledStdConv2d, ConvAWS2d
# Height and width of the images on which a module is tried; some networks take one size alone.
EXAMPLE_SIZES = (64, 224, 240, 256, 384, 512)


class Pair:
    """Weights and the module that they are planned for, and what tells their networks apart.

    Attributes:
        kind: class of the backbone. ``own``: the architecture by which timm has built it.
        told: timm's architecture in the reference. ``file``: with which the file's name begins.
        contraction: ``contract_dilation`` of dilated ResNets of which the weights are.
    """

    def __init__(self, plan: LoadPlan, module: nn.Module, settings: LoadSettings):
        self.plan, self.module, self.settings = plan, module, settings
        self.conversion, self.reference = plan.match.conversion, settings.checkpoint
        self.backbone = getattr(module, 'backbone', module)
        self.kind = type(self.backbone).__name__
        network = getattr(self.backbone, 'timm_model', self.backbone)
        self.own = (getattr(network, 'pretrained_cfg', None) or {}).get('architecture') or ''
        self.plain = self.own.removeprefix('tf_')
        self.this = self.own or 'a network without anti-aliased downsampling'
        told = TIMM.match(self.reference)
        self.told = told.group(1) if told else ''
        self.file = '' if told else _architecture_of_file(self.reference, bool(self.own))
        self.style = getattr(self.backbone, 'style', '')
        self.is_dilated = any(dilation > 1 for dilation in getattr(self.backbone, 'dilations', ()))
        self.contraction = CONTRACTIONS.get(self.conversion)
        self.own_contraction = getattr(self.backbone, 'contract_dilation', self.contraction)

    def has(self, pattern: str) -> bool:
        """Whether a name in the file has this in it."""
        return any(re.search(pattern, name) for name in self.plan.match.tensors)

    def from_smp(self, stem: str) -> bool:
        """Whether the file is a model of segmentation_models.pytorch whose encoder has ``stem``."""
        return self.has(r'(?:^|\.)segmentation_head\.0\.') and self.has(rf'(?:^|\.)encoder\.{stem}')


def _architecture_of_file(reference: str, of_any_kind: bool) -> str:
    name = re.split(r'[/\\]', reference)[-1].partition('.')[0].removeprefix('timm--')
    if not of_any_kind:
        found = ANTI_ALIASED.match(name)
        return found.group() if found else ''
    timm = importlib.import_module('timm')
    ends = [len(name), *(match.start() for match in reversed(list(re.finditer(r'[\W_]', name))))]
    return next((name[:end] for end in ends if timm.get_pretrained_cfg(name[:end])), '')


def _has_other_heads(backbone: Any) -> bool:
    if type(backbone).__module__ != 'mmseg.models.backbones.vit':
        return False
    attention = backbone.layers[0].attn
    return attention.num_heads * 64 != attention.embed_dims


def _is_bilinear(module: nn.Module) -> bool:
    fused = (part for name, part in module.named_modules() if '.fuse_layers.' in name)
    return any(getattr(part, 'mode', None) == 'bilinear' for part in fused)


def _standardizes_other_channels(pair: Pair) -> bool:
    readers = [pair.module.get_submodule(name.rpartition('.')[0]) for name in pair.plan.adapted]
    sources = channels_of(pair.settings.first_conv)
    return any(
        isinstance(part, nn.Conv2d)
        and STANDARDIZED.search(type(part).__name__)
        and sorted(sources or default_sources(part.in_channels)) != sorted(COLOURS)
        for part in readers
    )


def reads_image_elsewhere(pair: Pair) -> bool:
    """Whether something else in the backbone than :func:`image_convolutions` reads the image.

    It is tried on a copy: if nothing does, an image with its channels in another order gives the
    same features where the input channels of these convolutions have that order too.
    """
    if channels_of(pair.settings.first_conv) in (None, list(COLOURS)):
        return False
    tried = copy.deepcopy(pair.module)
    values = {n: v for n, v in pair.plan.values.items() if n not in pair.plan.rows}
    tried.load_state_dict(values, strict=False)
    tried = getattr(tried, 'backbone', tried).double()
    tried.eval()
    readers = {tried.get_parameter(name) for name in image_convolutions(tried)}
    channels = next(iter(readers)).shape[1]
    for size in EXAMPLE_SIZES:
        image = torch.randn(1, channels, size, size, dtype=torch.float64)
        try:
            expected = _features(tried, image)
        except Exception:  # the module takes no image of this size
            continue
        for weight in readers:
            weight.data = weight.data.roll(1, dims=1)
        rolled = _features(tried, image.roll(1, dims=1))
        return not all(map(torch.allclose, rolled, expected))
    return False


@torch.no_grad()
def _features(backbone: nn.Module, image: Tensor) -> list[Tensor]:
    leaves = tree_flatten(backbone(image.clone()))[0]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Lookalike:
    """One kind of pair that fits and is not the same network; texts are formatted with ``pair``."""

    applies: Callable[[Pair], object]
    difference: str
    # Without one it is a note; with one that names min_coverage, saying this takes the weights.
    way_out: str = ''


ANYWAY = 'or say min_coverage=1 to fine-tune from them nevertheless.'
LOOKALIKES = (
    Lookalike(
        lambda p: p.told and p.told != p.own and (p.own or ANTI_ALIASED.fullmatch(p.told)),
        'these are weights of {pair.told} and the module is {pair.this}',
        'Set model_name={pair.told!r} in a TIMMBackbone, or take other weights.',
    ),
    Lookalike(
        lambda p: p.own and not p.own.startswith('tf_') and p.conversion == 'efficientnet-pytorch',
        'the network of these weights pads as TensorFlow does, and {pair.own} does not',
        "Set model_name='tf_{pair.own}' in the backbone.",
    ),
    # smp's `timm-efficientnet`. In a `tu-` encoder, which is timm's own, `model.` stands between.
    Lookalike(
        lambda p: p.own.startswith('tf_') and p.from_smp('conv_stem'),
        'the network of these weights pads as PyTorch does, and {pair.own} does not',
        'Set model_name={pair.plain!r} in the backbone.',
    ),
    Lookalike(
        lambda p: p.own.startswith('mobilenetv3') and p.from_smp(r'model\.conv_stem'),
        "segmentation_models.pytorch's timm-mobilenetv3 encoders pad as TensorFlow does, and "
        '{pair.own} does not',
        "Set model_name='tf_{pair.own}' in the backbone, or say min_coverage=1 if the encoder was "
        "'tu-{pair.own}'.",
    ),
    Lookalike(
        lambda p: re.match(OTHER_PADDING, p.own) and p.from_smp(r'(?!model\.)'),
        'segmentation_models.pytorch pads its convolutions, and {pair.own} does not',
        f'Take weights of timm, {ANYWAY}',
    ),
    Lookalike(
        lambda p: _is_bilinear(p.module) and p.has(OTHER_HRNETS),
        'this HRNet is none of a segmentation model and upsamples by nearest neighbours, '
        "MMSegmentation's bilinearly",
        f'Take a TIMMBackbone with the model_name of the weights, {ANYWAY}',
    ),
    Lookalike(
        lambda p: (
            type(p.backbone).__module__.startswith('mmseg.')
            and p.kind == 'MobileNetV3'
            and p.has(r'(?:^|\.)head\.')
        ),
        "a classifier's MobileNetV3 pads as PyTorch does, and MMSegmentation's as TensorFlow in "
        'five convolutions',
        f"Take type='mmpretrain.MobileNetV3' as the backbone, {ANYWAY}",
    ),
    Lookalike(
        _standardizes_other_channels,
        'its first convolution standardizes its weights over the input channels, so with others '
        'than RGB it answers no image as before',
        f'Give the backbone RGB images, {ANYWAY}',
    ),
    Lookalike(
        reads_image_elsewhere,
        '{pair.kind} reads the image in more places than its first convolutions, so its input '
        'channels cannot be rearranged',
        'Leave first_conv out and give it RGB images (bgr_to_rgb=True in the data_preprocessor, '
        'for files as OpenCV reads them).',
    ),
    Lookalike(
        lambda p: any(re.search(r'(^|\.)ln_pre\.', n) for n in p.plan.match.unknown.values()),
        'these weights are of a ViT that normalizes the patches before its layers, as CLIP does',
        'Set pre_norm=True in the backbone.',
    ),
    # --- notes ---
    Lookalike(
        lambda p: _has_other_heads(p.backbone),
        'weights do not show the number of attention heads: nearly every published ViT has one for '
        'each 64 of embed_dims, unlike num_heads of the module',
    ),
    Lookalike(
        lambda p: p.file and p.file != p.own,
        'the file is called {pair.file} and the module is {pair.this}: another network',
    ),
    Lookalike(
        lambda p: p.conversion.startswith('torchvision') and p.style == 'caffe',
        "torchvision puts the stride where style='pytorch' does; the module has caffe",
    ),
    Lookalike(
        lambda p: (
            p.style == 'pytorch'
            and (p.conversion == 'detectron2' or re.search('caffe|msra|detectron', p.reference))
        ),
        "weights of Caffe networks and detectron2's are made for style='caffe' and BGR images, if "
        'they were not trained otherwise; the module has pytorch',
    ),
    Lookalike(
        lambda p: p.is_dilated and p.contraction not in (None, p.own_contraction),
        'the networks that these weights are made for dilate as with '
        'contract_dilation={pair.contraction}',
    ),
    Lookalike(
        lambda p: p.is_dilated and p.kind == 'ResNetV1d' and p.conversion == 'timm-deep-stem',
        "timm's d variants average 2 x 2 pixels in the shortcuts of dilated stages, this does not",
    ),
)


def another_network(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> str | None:
    """Why the network of the weights is surely not the one that ``module`` is, and the way out."""
    pair = Pair(plan, module, settings)
    for row in LOOKALIKES:
        taken = 'min_coverage' in row.way_out and settings.min_coverage is not None
        if row.way_out and not taken and row.applies(pair):
            why = f'{row.difference}. {row.way_out}'.format(pair=pair)
            kind = type(module).__name__
            return f'fits {kind} by names and shapes and is another network: {why}'
    return None


def notes_on(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> list[str]:
    """What may make another function of the same names and shapes."""
    pair = Pair(plan, module, settings)
    rows = [row for row in LOOKALIKES if not row.way_out and row.applies(pair)]
    return [row.difference.format(pair=pair) for row in rows]
