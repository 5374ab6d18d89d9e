"""Loaded features against those of the library that the weights come from."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .reading import read_checkpoint
from .report import LoadReport

RESNET_STAGES = ('layer1', 'layer2', 'layer3', 'layer4')
TORCHVISION_LAYOUTS = (
    'torchvision-resnet',
    'torchvision-segmentation',
    'torchvision-detection',
    'moco',
    'dino',
)


def compare(module: nn.Module, report: LoadReport, trust_pickle: bool = False) -> dict[str, float]:
    """Relative difference of the features of each stage, by the library's name for it.

    Both networks see the same random input, ``(1, 3, 64, 64)`` in float64, in eval mode. Stages
    whose resolution differs are left out: the library's network is not dilated there.

    Returns:
        Largest difference over largest value; empty where there is nothing to compare with.
    """
    tensors = read_checkpoint(Path(report.path), trust_pickle).tensors
    backbone = getattr(module, 'backbone', module)
    theirs = _library_features(backbone, report, tensors)
    if not theirs:
        return {}
    ours = _features(backbone)
    paired = zip(list(theirs.items())[-len(ours) :], ours[-len(theirs) :])
    return {
        stage: ((b - a).abs().max() / a.abs().max()).item()
        for (stage, a), b in paired
        if a.shape == b.shape
    }


def _picture() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=generator)


@torch.no_grad()
def _features(network: nn.Module) -> list[Tensor]:
    network.double()
    # The eval() of an mmseg backbone returns None.
    network.eval()
    return list(network(_picture()))


@torch.no_grad()
def _outputs(network: nn.Module, layers: Mapping[str, str]) -> dict[str, Tensor]:
    """What the parts of ``network`` return; ``layers`` gives names for them in the result."""
    seen: dict[str, Tensor] = {}
    for layer, name in layers.items():
        network.get_submodule(layer).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output})
        )
    network.double().eval()(_picture())
    return seen


def _library_features(
    backbone: nn.Module, report: LoadReport, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    architecture = _timm_architecture(backbone, report.reference)
    if report.conversion == 'efficientnet-pytorch':
        return _of_efficientnet_lite(architecture, tensors)
    if report.reference.startswith('timm://') and architecture:
        return _of_timm(backbone, architecture, report.path)
    if report.conversion in TORCHVISION_LAYOUTS:
        return _of_torchvision(backbone, tensors)
    return _of_timm(backbone, architecture, report.path) if architecture else {}


def _of_torchvision(backbone: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if importlib.util.find_spec('torchvision') is None:
        return {}
    resnet = importlib.import_module('torchvision.models.resnet')
    own = _without_prefix(tensors, 'layer1.0.conv1.weight')
    blocks = [_count_blocks(own, stage) for stage in RESNET_STAGES]
    bottleneck = 'layer1.0.conv3.weight' in own
    width, group_width = own['layer1.0.conv2.weight'].shape[:2]
    options = {}
    if bottleneck:
        options = {'groups': width // group_width, 'width_per_group': group_width}
        dilated = [d > 1 for d in getattr(backbone, 'dilations', (1, 1, 1, 1))]
        options['replace_stride_with_dilation'] = dilated[1:]
    block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
    network = resnet.ResNet(block, blocks, **options)
    network.fc = nn.Identity()
    network.load_state_dict({n: t for n, t in own.items() if not n.startswith('fc.')})
    return _outputs(network, {stage: stage for stage in RESNET_STAGES})


def _of_timm(backbone: nn.Module, architecture: str, path: str) -> dict[str, Tensor]:
    timm = importlib.import_module('timm')
    stride = _stride(backbone)
    options = {} if stride == 32 else {'output_stride': stride}
    network = timm.create_model(
        architecture,
        features_only=True,
        pretrained=True,
        pretrained_cfg_overlay={'file': path},
        **options,
    )
    return dict(zip(network.feature_info.module_name(), _features(network)))


def _stride(backbone: nn.Module) -> int:
    if hasattr(backbone, 'timm_model'):
        return max(backbone.timm_model.feature_info.reduction())
    return 32 // 2 ** sum(dilation > 1 for dilation in getattr(backbone, 'dilations', ()))


def _of_efficientnet_lite(
    architecture: str | None, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    lite = re.search(r'efficientnet_lite(\d)', architecture or '')
    if not lite or importlib.util.find_spec('efficientnet_lite_pytorch') is None:
        return {}
    library = importlib.import_module('efficientnet_lite_pytorch')
    network = library.EfficientNet.from_name(f'efficientnet-lite{lite.group(1)}')
    network.load_state_dict(_without_prefix(tensors, '_conv_stem.weight'))
    timm = importlib.import_module('timm')
    sizes = [len(stage) for stage in timm.create_model(architecture).blocks]
    ends = {stage: sum(sizes[: stage + 1]) - 1 for stage in (0, 1, 2, 4, 6)}
    return _outputs(network, {f'_blocks.{end}': f'blocks.{stage}' for stage, end in ends.items()})


def _timm_architecture(backbone: nn.Module, reference: str) -> str | None:
    if importlib.util.find_spec('timm') is None:
        return None
    if reference.startswith('timm://'):
        return reference[len('timm://') :].partition('.')[0]
    config = getattr(getattr(backbone, 'timm_model', None), 'pretrained_cfg', None) or {}
    return config.get('architecture')


def _without_prefix(tensors: Mapping[str, Tensor], known: str) -> dict[str, Tensor]:
    """The network's own names, given one that it surely has."""
    found = [n for n in tensors if n == known or n.endswith(f'.{known}')]
    prefix = found[0][: -len(known)] if found else ''
    return {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}


def _count_blocks(names: Mapping[str, Tensor], stage: str) -> int:
    return len({n.split('.')[1] for n in names if n.startswith(f'{stage}.')})
