"""The own networks of the libraries that weights come from, with the tensors of a checkpoint."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...pretrained.advice.lookalikes import architecture_in, architecture_of
from ...pretrained.errors import PretrainedWeightsError
from ...pretrained.report import LoadReport
from ...utils.text import one_line

Tensors = Mapping[str, Tensor]
RESNET_STAGES = ('layer1', 'layer2', 'layer3', 'layer4')
Features = dict  # the name of a stage -> its features, (1, C, H, W)


class NothingToCompareError(PretrainedWeightsError):
    """No library's own network can stand beside the loaded one; the message says why."""


def _random_image() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=generator)


@torch.no_grad()
def features_of(network: nn.Module) -> list[Tensor]:
    """What ``network`` gives for a fixed random image, ``(1, 3, 64, 64)``, in float64."""
    network.double()
    network.eval()  # Not chained: mmseg's backbones return None.
    return list(network(_random_image()))


@torch.no_grad()
def _outputs(network: nn.Module, layers: Mapping[str, str]) -> Features:
    """What the parts of ``network`` return; ``layers`` gives names for them in the result."""
    seen: Features = {}
    for layer, name in layers.items():
        network.get_submodule(layer).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output})
        )
    network.double().eval()(_random_image())
    return seen


# --- one function per library -------------------------------------------------------------------


def _of_torchvision(backbone: nn.Module, report: LoadReport, tensors: Tensors) -> Features:
    resnet = importlib.import_module('torchvision.models.resnet')
    layout = _ResNetLayout.of(tensors)
    # BasicBlock of torchvision cannot be dilated.
    dilated = [layout.block == 'Bottleneck' and stride_of(backbone) <= s for s in (4, 8, 16)]
    network = resnet.ResNet(
        getattr(resnet, layout.block),
        layout.depths,
        groups=layout.groups,
        width_per_group=layout.width,
        replace_stride_with_dilation=dilated,
    )
    network.fc = nn.Identity()
    return _stages(network, layout, 'torchvision')


def _of_smp(backbone: nn.Module, report: LoadReport, tensors: Tensors) -> Features:
    encoders = importlib.import_module('segmentation_models_pytorch.encoders.resnet')
    layout = _ResNetLayout.of(tensors)
    network = encoders.ResNetEncoder(
        out_channels=[3, 64, 64, 128, 256, 512],  # only the decoder of a model reads these
        block=getattr(encoders, layout.block),
        layers=layout.depths,
        groups=layout.groups,
        width_per_group=layout.width,
    )
    if stride_of(backbone) < 32:
        network.make_dilated(stride_of(backbone))
    return _stages(network, layout, 'segmentation_models_pytorch')


def _of_timm_resnet(backbone: nn.Module, report: LoadReport, tensors: Tensors) -> Features:
    """A file of the ``c`` and ``d`` variants does not name them; its tensors tell."""
    resnet = importlib.import_module('timm.models.resnet')
    layout = _ResNetLayout.of(tensors)
    network = resnet.ResNet(
        getattr(resnet, layout.block),
        layout.depths,
        num_classes=0,
        output_stride=stride_of(backbone),
        stem_type='deep',
        stem_width=layout.own['conv1.0.weight'].shape[0],
        # A pooling in front of the convolution of a shortcut moves it to the second place.
        avg_down=layout.own['layer2.0.downsample.1.weight'].dim() == 4,
        cardinality=layout.groups,
        base_width=layout.width,
    )
    return _stages(network, layout, 'timm')


def _of_timm(backbone: nn.Module, report: LoadReport, tensors: Tensors) -> Features:
    timm = importlib.import_module('timm')
    own = {
        name[len(report.prefix) :].removeprefix('timm_model.'): tensor
        for name, tensor in tensors.items()
        if name.startswith(report.prefix)
    }
    stride = stride_of(backbone)
    options = {'features_only': True, **({} if stride == 32 else {'output_stride': stride})}
    architecture = architecture_in(report.reference)
    network = timm.create_model(architecture, pretrained=False, **options)
    try:
        if set(network.state_dict()) <= set(own):
            # What was saved from such a network, as inside a TIMMBackbone.
            network.load_state_dict(own, strict=False)
        else:
            # timm's own loader knows how names of whole networks become those of the features.
            overlay = {'state_dict': own, 'custom_load': False}
            network = timm.create_model(
                architecture, pretrained=True, pretrained_cfg_overlay=overlay, **options
            )
    except RuntimeError as error:
        raise _no_such_network(f'timm has no {architecture}', error) from error
    return dict(zip(network.feature_info.module_name(), features_of(network)))


def _of_efficientnet_lite(backbone: nn.Module, report: LoadReport, tensors: Tensors) -> Features:
    library = importlib.import_module('efficientnet_lite_pytorch')
    size = _lite_size(backbone, report)
    network = library.EfficientNet.from_name(f'efficientnet-lite{size}')
    _load(network, _without_prefix(tensors, '_conv_stem.weight'), 'efficientnet_lite_pytorch')
    timm = importlib.import_module('timm')
    whole = timm.create_model(architecture_of(backbone))
    sizes = [len(stage) for stage in whole.blocks]
    ends = {stage: sum(sizes[: stage + 1]) - 1 for stage in (0, 1, 2, 4, 6)}
    return _outputs(network, {f'_blocks.{end}': f'blocks.{stage}' for stage, end in ends.items()})


class Library(NamedTuple):
    """The module to import, the distribution to install, and the features of the library's own
    network with the tensors of a checkpoint."""

    module: str
    distribution: str
    features: Callable[[nn.Module, LoadReport, Tensors], Features]


TIMM = Library('timm', 'timm', _of_timm)
LITE = Library('efficientnet_lite_pytorch', 'efficientnet-lite-pytorch', _of_efficientnet_lite)
TORCHVISION = Library('torchvision', 'torchvision', _of_torchvision)
BY_LAYOUT = {
    'torchvision-resnet': TORCHVISION,
    'torchvision-segmentation': TORCHVISION,
    'torchvision-detection': TORCHVISION,
    'moco': TORCHVISION,
    'dino': TORCHVISION,
    'smp': Library('segmentation_models_pytorch', 'segmentation-models-pytorch', _of_smp),
    'timm-deep-stem': Library('timm', 'timm', _of_timm_resnet),
}


def library_of(backbone: nn.Module, report: LoadReport) -> Library:
    """The library whose network the weights were made for.

    Raises:
        NothingToCompareError: none is known, or it is not installed.
    """
    if report.conversion == 'efficientnet-pytorch':
        library = LITE if _lite_size(backbone, report) else None
    elif report.reference.startswith('timm://'):
        library = TIMM
    elif hasattr(backbone, 'timm_model') and not report.reference.startswith('torchvision://'):
        # Names do not tell resnetaa50 from resnet50, so the module's own says nothing of the file.
        if architecture_in(report.reference) is None:
            raise NothingToCompareError(
                f'{report.reference} does not say which network of timm it was made for: nothing '
                'to compare. Take a timm:// reference, or begin the name of the file with that of '
                f'its network, such as {architecture_of(backbone)}.pth.'
            )
        library = TIMM
    else:
        library = BY_LAYOUT.get(report.conversion)
    if library is None:
        raise NothingToCompareError(
            f'no library is known that has a network of its own for {report.conversion} weights in '
            f'{type(backbone).__name__}: nothing to compare.'
        )
    if importlib.util.find_spec(library.module) is None:
        raise NothingToCompareError(
            f'these weights are those of {library.module}, which is not installed: run '
            f'"pip install {library.distribution}".'
        )
    return library


# --- what the tensors and the module tell -------------------------------------------------------


class _ResNetLayout(NamedTuple):
    """The arguments of a ResNet, told from its tensors ``own``."""

    own: dict[str, Tensor]
    block: str
    depths: list[int]
    groups: int
    width: int

    @classmethod
    def of(cls, tensors: Tensors) -> _ResNetLayout:
        own = _without_prefix(tensors, 'layer1.0.conv1.weight')
        depths = [
            len({name.split('.')[1] for name in own if name.startswith(f'{stage}.')})
            for stage in RESNET_STAGES
        ]
        if 'layer1.0.conv3.weight' not in own:
            return cls(own, 'BasicBlock', depths, groups=1, width=64)
        width, group_width = own['layer1.0.conv2.weight'].shape[:2]
        return cls(own, 'Bottleneck', depths, width // group_width, group_width)


def _stages(network: nn.Module, layout: _ResNetLayout, library: str) -> Features:
    _load(network, {n: t for n, t in layout.own.items() if not n.startswith('fc.')}, library)
    return _outputs(network, {stage: stage for stage in RESNET_STAGES})


def _load(network: nn.Module, own: Tensors, library: str) -> None:
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        raise _no_such_network(f'{library} has no network', error) from error


def _no_such_network(what: str, error: RuntimeError) -> NothingToCompareError:
    return NothingToCompareError(
        f'{what} with just these tensors: nothing to compare ({one_line(error)[:160]} ...).'
    )


def stride_of(backbone: Any) -> int:
    """How many pixels of the input one of the last features stands for."""
    if hasattr(backbone, 'timm_model'):
        return max(backbone.timm_model.feature_info.reduction())
    return 32 // 2 ** sum(dilation > 1 for dilation in getattr(backbone, 'dilations', ()))


def _lite_size(backbone: nn.Module, report: LoadReport) -> str | None:
    found = re.search(r'efficientnet_lite(\d)', architecture_of(backbone) or '')
    return found and found.group(1)


def _without_prefix(tensors: Tensors, known: str) -> dict[str, Tensor]:
    """The network's own names, given one that it surely has.

    Raises:
        NothingToCompareError: no name ends so.
    """
    found = next((n for n in tensors if n == known or n.endswith(f'.{known}')), None)
    if found is None:
        raise NothingToCompareError(
            f"the file has no tensor {known}, so its names are not those of the library's network: "
            'nothing to compare.'
        )
    prefix = found[: -len(known)]
    return {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
