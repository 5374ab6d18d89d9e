"""The first convolution of a network that sees other bands than red, green and blue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import PretrainedWeightsError

COLOURS = ('R', 'G', 'B')
BAND_NAMES = (*COLOURS, 'mean')


def adapt_to_bands(weight: Tensor, bands: Sequence[str]) -> Tensor:
    """The weight of an RGB convolution, rearranged for other input bands.

    Every band starts from the kernel that ``bands`` names for it: that of one colour, or the mean
    of the three, times ``3 / len(bands)``. What the sum over the bands then lacks to the sum over
    the three colours is spread evenly over the bands. So the response to a grey picture, the same
    value in all bands, is unchanged whatever the choice; a permutation of the colours is only
    permuted; ``['R', 'G', 'B', 'mean']`` is the RGB kernels and their mean, times 3/4.

    Args:
        weight: ``(O, 3, kH, kW)``, kernels for R, G and B in this order.
        bands: what each band of the input takes, each one of ``'R'``, ``'G'``, ``'B'``, ``'mean'``.

    Returns:
        ``(O, len(bands), kH, kW)`` in the dtype of ``weight``.
    """
    colours = weight.double()
    kernels = {**dict(zip(COLOURS, colours.unbind(1))), 'mean': colours.mean(1)}
    adapted = torch.stack([kernels[band] for band in bands], dim=1) * (3 / len(bands))
    lacking = colours.sum(1, keepdim=True) - adapted.sum(1, keepdim=True)
    return (adapted + lacking / len(bands)).to(weight.dtype)


def default_bands(count: int) -> list[str]:
    """Colours first and then means; only means where there are fewer than three bands."""
    if count < len(COLOURS):
        return ['mean'] * count
    return [*COLOURS, *['mean'] * (count - len(COLOURS))]


def chosen_bands(first_conv: str | Mapping[str, Any], count: int) -> list[str] | None:
    """The bands that a ``first_conv`` setting means for a module with ``count`` input bands.

    Returns:
        One name per band, or None where the weight must fit as it is (``'error'``).

    Raises:
        PretrainedWeightsError: the setting is not understood or names another number of bands.
    """
    if first_conv == 'error':
        return None
    if first_conv == 'adapt':
        return default_bands(count)
    bands = first_conv.get('bands') if isinstance(first_conv, Mapping) else None
    if not bands or set(first_conv) != {'bands'} or not set(bands) <= set(BAND_NAMES):
        raise PretrainedWeightsError(
            f'first_conv={first_conv!r} is not understood. Use "adapt", "error" or '
            f'dict(bands=[...]) with one of {", ".join(BAND_NAMES)} for each input band.'
        )
    if len(bands) != count:
        raise PretrainedWeightsError(
            f'first_conv names {len(bands)} bands ({", ".join(bands)}), and the module has {count}.'
        )
    return list(bands)


def first_convolution(module_shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The name of the first convolution's weight: the first tensor with four dimensions."""
    return next((name for name, shape in module_shapes.items() if len(shape) == 4), None)
