"""Other people's networks with random weights, and how to compare features with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mmseg.models  # noqa: F401  registers the backbones and heads
import pytest
import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained

RESNET50_D8 = {
    'type': 'ResNet',
    'depth': 50,
    'strides': (1, 2, 1, 1),
    'dilations': (1, 1, 2, 4),
    'contract_dilation': True,
}
# The names of a ResNet-18 and a hundredth of its weights.
NARROW_RESNET = {'type': 'ResNet', 'depth': 18, 'base_channels': 8, 'stem_channels': 8}


def build(**config) -> nn.Module:
    """A module from MMSegmentation's registry, in eval mode."""
    # Runs of other tests leave mmengine's scope behind.
    module = MODELS.build({**config, '_scope_': 'mmseg'})
    module.eval()
    return module


def timm_backbone(name: str, **options) -> nn.Module:
    """A network of timm with random weights, as a backbone of MMSegmentation."""
    return build(type='TIMMBackbone', model_name=name, pretrained=False, **options)


@torch.no_grad()
def randomized(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random affine parameters and running statistics, so that a forgotten buffer shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if name.endswith('num_batches_tracked') or not tensor.is_floating_point():
            continue
        if name.endswith('running_var') or (name.endswith('weight') and tensor.dim() == 1):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.dim() == 1:
            tensor.uniform_(-0.2, 0.2, generator=generator)
        else:
            # Values keep their size from layer to layer.
            fan_in = tensor[0].numel()
            tensor.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
    # An mmseg backbone's eval() returns None.
    network.eval()
    return network


def saved(content, path: Path) -> str:
    """Save a network's state dict, or any content, and return the path as a config would say it."""
    torch.save(content.state_dict() if isinstance(content, nn.Module) else content, path)
    return str(path)


def refused(module: nn.Module, file: object, message: str, **settings) -> PretrainedWeightsError:
    """Assert that ``file`` is refused for ``module``, which stays as it was."""
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(PretrainedWeightsError, match=message) as caught:
        load_pretrained(module, str(file), **settings)
    assert all(torch.equal(before[name], t) for name, t in module.state_dict().items())
    return caught.value


def empty(make: Callable[[], nn.Module]) -> nn.Module:
    """A module whose values are whatever the memory holds, without the time to draw them."""
    with torch.device('meta'):
        module = make()
    return module.to_empty(device='cpu')


def content_of(network: nn.Module | Callable[[], nn.Module]) -> dict:
    """Names and shapes of a network; all values are the same one, so that a file is small."""
    with torch.device('meta'):
        network = network if isinstance(network, nn.Module) else network()
    return {
        name: torch.full((), 0.5, dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in network.state_dict().items()
    }


def image(channels: int = 3, size: int = 64) -> Tensor:
    """(1, channels, size, size) of float64."""
    return torch.randn(
        1, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def outputs_of(network: nn.Module, layers: list[str], image: Tensor) -> list[Tensor]:
    """What the named parts of ``network`` return for ``image``, in float64."""
    seen: list[Tensor] = []
    handles = [
        network.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[2]))
        for layer in layers
    ]
    network.double()
    network.eval()
    with torch.no_grad():
        network(image)
    for handle in handles:
        handle.remove()
    return seen


def features_of(backbone: nn.Module, image: Tensor) -> list[Tensor]:
    """The features of an MMSegmentation backbone, in float64."""
    backbone.double()
    backbone.eval()
    with torch.no_grad():
        return list(backbone(image))


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference relative to the largest value, over all stages."""
    assert len(ours) == len(theirs) > 0
    assert all(a.shape == b.shape and b.std() > 1e-3 for a, b in zip(ours, theirs))
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs))


def small_segmentor(classes: int = 4) -> nn.Module:
    """A whole model with two heads, of a narrow backbone."""
    batch_norm = {'type': 'BN'}
    return build(
        type='EncoderDecoder',
        backbone={**NARROW_RESNET, 'type': 'ResNetV1c', 'norm_cfg': batch_norm},
        decode_head={
            'type': 'FactorizedPSPHead',
            'in_channels': 64,
            'in_index': 3,
            'channels': 16,
            'num_classes': classes,
            'norm_cfg': batch_norm,
        },
        auxiliary_head={
            'type': 'FCNHead',
            'in_channels': 32,
            'in_index': 2,
            'channels': 8,
            'num_convs': 1,
            'num_classes': classes,
            'norm_cfg': batch_norm,
        },
    )


def logits_of(segmentor: nn.Module, image: Tensor) -> list[Tensor]:
    """What both heads of ``segmentor`` say, in float64."""
    segmentor.double().eval()
    with torch.no_grad():
        features = segmentor.backbone(image)
        return [segmentor.decode_head(features), segmentor.auxiliary_head(features)]


def semseg_target(classes: int = 19) -> nn.Module:
    """What a PSPNet50 of semseg, an eighth as wide, is in MMSegmentation."""
    batch_norm = {'type': 'BN'}
    heads = {'num_classes': classes, 'norm_cfg': batch_norm, 'align_corners': True}
    return build(
        type='EncoderDecoder',
        backbone={
            'type': 'ResNetV1c',
            'depth': 50,
            'stem_channels': 128,
            'base_channels': 8,
            'norm_cfg': batch_norm,
            'strides': (1, 2, 1, 1),
            'dilations': (1, 1, 2, 4),
            'contract_dilation': False,
        },
        decode_head={
            'type': 'FactorizedPSPHead',
            'in_channels': 256,
            'in_index': 3,
            'channels': 64,
            **heads,
        },
        auxiliary_head={
            'type': 'FCNHead',
            'in_channels': 128,
            'in_index': 2,
            'channels': 32,
            'num_convs': 1,
            'concat_input': False,
            **heads,
        },
    )
