"""The first convolution of a network whose input channels are not red, green and blue."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..errors import PretrainedWeightsError

COLOURS = ('R', 'G', 'B')
SOURCES = (*COLOURS, 'mean')
# Height and width of the images on which a module is tried; some networks take one size alone.
EXAMPLE_SIZES = (64, 224, 240, 256, 384, 512)


def adapt_to_channels(weight: Tensor, sources: Sequence[str]) -> Tensor:
    """The weight of an RGB convolution, rearranged for other input channels.

    Every channel starts from the kernel of its source, times ``3 / len(sources)``. The difference
    between the sum over the new channels and the sum over the three colours is then spread evenly,
    so that the response to a grey image is unchanged; a permutation of the colours only permutes.

    Args:
        weight: ``(O, 3, kH, kW)``, kernels for R, G and B in this order.
        sources: for each input channel one of ``'R'``, ``'G'``, ``'B'``, ``'mean'``.

    Returns:
        ``(O, len(sources), kH, kW)`` in the dtype of ``weight``.
    """
    colours = weight.double()
    kernels = {**dict(zip(COLOURS, colours.unbind(1))), 'mean': colours.mean(1)}
    adapted = torch.stack([kernels[source] for source in sources], dim=1) * (3 / len(sources))
    lacking = colours.sum(1, keepdim=True) - adapted.sum(1, keepdim=True)
    return (adapted + lacking / len(sources)).to(weight.dtype)


def default_sources(count: int) -> list[str]:
    """Colours first and then means; only means where there are fewer than three channels."""
    colours = COLOURS if count >= len(COLOURS) else ()
    return [*colours, *['mean'] * (count - len(colours))]


def channels_of(first_conv: object) -> list[str] | None:
    """The sources in ``dict(channels=[...])``, or None if ``first_conv`` is something else."""
    # ``bands`` is what it was called before.
    if not isinstance(first_conv, Mapping) or set(first_conv) not in ({'channels'}, {'bands'}):
        return None
    (sources,) = first_conv.values()
    good = isinstance(sources, (list, tuple)) and sources and all(s in SOURCES for s in sources)
    return list(sources) if good else None


def adaptation(first_conv: str | Mapping[str, Any], theirs: int, count: int) -> list[str] | None:
    """The sources for a first convolution that sees ``count`` channels, from one of ``theirs``.

    None where the weight goes in as it is, or cannot go in.
    """
    if first_conv == 'error' and theirs != count:
        raise PretrainedWeightsError(
            f'The module has {count} input channels and the weights {theirs} '
            f"(first_conv='error'). Set in_channels={theirs} in the backbone, take weights for "
            f"{count} channels, or adapt RGB weights by first_conv='adapt'."
        )
    named = channels_of(first_conv)
    if named and len(named) != count:
        raise PretrainedWeightsError(
            f'first_conv names {len(named)} channels ({", ".join(named)}), and the module has '
            f'{count}.'
        )
    if named and theirs != len(COLOURS):
        raise PretrainedWeightsError(
            f'first_conv names input channels, and the weights see {theirs} channels, not the RGB '
            'that could be rearranged. Leave first_conv out.'
        )
    sources = named or default_sources(count)
    rearranged = theirs == len(COLOURS) and sources != list(COLOURS)
    return sources if rearranged and first_conv != 'error' else None


def first_convolution(module_shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The name of the first convolution's weight: the first tensor with four dimensions."""
    return next((name for name, shape in module_shapes.items() if len(shape) == 4), None)


def image_convolutions(module: nn.Module) -> list[str]:
    """The weights of the convolutions that read the image.

    A network may have several beside each other, as RepVGG and BiSeNetV2 have: they are the first
    convolution and the others that see as many channels, all at once.
    """
    whole = {
        f'{name}.weight': part.in_channels
        # A layer that stands in two places has two names, and the last value written stays.
        for name, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, nn.Conv2d) and part.groups == 1
    }
    first = next(iter(whole.values()), None)
    return [name for name, channels in whole.items() if channels == first]


def reads_image_elsewhere(
    module: nn.Module, values: Mapping[str, Tensor], channels: int
) -> bool | None:
    """Whether something else in ``module`` than :func:`image_convolutions` reads the image.

    It is tried on a copy with ``values``: if nothing does, an image with its channels in another
    order gives the same features where the input channels of these convolutions have that order
    too. None where the module runs on none of the example images.
    """
    for size in EXAMPLE_SIZES:
        try:
            return _reads_elsewhere(module, values, (1, channels, size, size))
        except Exception:
            continue  # The module takes no image of this size.
    return None


def _reads_elsewhere(
    module: nn.Module, values: Mapping[str, Tensor], shape: tuple[int, ...]
) -> bool:
    tried = copy.deepcopy(module)
    tried.load_state_dict(dict(values), strict=False)
    tried.double()
    tried.eval()
    image = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = _features(tried, image.clone())
    # A weight that two modules share is one.
    for weight in {tried.get_parameter(name) for name in image_convolutions(tried)}:
        weight.data = weight.data.roll(1, dims=1)
    return not all(map(torch.allclose, _features(tried, image.roll(1, dims=1)), expected))


@torch.no_grad()
def _features(module: nn.Module, image: Tensor) -> list[Tensor]:
    output = module(image, mode='tensor') if isinstance(module, BaseModel) else module(image)
    return [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]
