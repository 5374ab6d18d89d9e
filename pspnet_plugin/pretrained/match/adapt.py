"""Values for a module with other input channels, or other classes, than the checkpoint has."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PretrainedWeightsError

COLOURS = ('R', 'G', 'B')
SOURCES = (*COLOURS, 'mean')
# Every decode head of MMSegmentation keeps its classifier under this name.
CLASSIFIER = re.compile(r'(?:^|\.)conv_seg\.(?:weight|bias)$')

# --- input channels -----------------------------------------------------------------------------


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
    if not isinstance(first_conv, Mapping) or set(first_conv) != {'channels'}:
        return None
    sources = first_conv['channels']
    good = isinstance(sources, (list, tuple)) and sources and all(s in SOURCES for s in sources)
    return list(sources) if good else None


def adaptation(
    first_conv: str | Mapping[str, Any], weight: Tensor, own: Tensor
) -> list[str] | None:
    """The sources for a convolution that reads the image, from the ``weight`` of another one.

    None where the weight goes in as it is, or cannot go in.
    """
    if not weight.dim() == own.dim() == 4:
        return None
    (outputs, theirs, *kernel), (own_outputs, count, *own_kernel) = weight.shape, own.shape
    if (outputs, kernel) != (own_outputs, own_kernel):
        return None
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
        # A layer that has two names in the module is written under both.
        for name, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, nn.Conv2d) and part.groups == 1
    }
    first = next(iter(whole.values()), None)
    return [name for name, channels in whole.items() if channels == first]


# --- classes ------------------------------------------------------------------------------------


def differs_in_classes_only(name: str, value: Tensor, ours: Tensor) -> bool:
    """Whether two tensors of a classifier, one row per class, have all but that in common."""
    alike = value.dim() == ours.dim() and value.shape[1:] == ours.shape[1:]
    return alike and CLASSIFIER.search(name) is not None


def rows_by_name(
    ours: Sequence[str], meta: Mapping[str, Any], our_rows: int, their_rows: int
) -> tuple[list[int], list[int], str]:
    """The rows of the classes that a module and a checkpoint both have, and a word on them.

    Case, spaces, hyphens and underscores in the names make no difference. Both sides must have as
    many class names as rows.
    """
    if not ours:
        raise PretrainedWeightsError(
            "classes='by_name' needs the class names of the module: say class_names=[...]. Where "
            'they are left out, PretrainedBackboneHook takes those of the training dataset, if its '
            'metainfo has classes.'
        )
    theirs = _classes_in(meta)
    if not theirs:
        raise PretrainedWeightsError(
            "classes='by_name': the checkpoint does not tell its class names (meta.dataset_meta"
            '.classes). Leave classes=None to start the classifier from its initialization.'
        )
    for names, rows, whose in ((ours, our_rows, 'module'), (theirs, their_rows, 'file')):
        if len(names) != rows:
            raise PretrainedWeightsError(
                f"classes='by_name': {len(names)} class names for the {rows} classes of the "
                f'{whose} ({", ".join(map(str, names[:5]))}). Correct class_names, or leave '
                'classes=None to go by shapes, also for a classifier of one row (out_channels=1).'
            )
    row_of = {_plain(name): row for row, name in reversed(list(enumerate(theirs)))}
    shared = {row: row_of[_plain(name)] for row, name in enumerate(ours) if _plain(name) in row_of}
    names = ', '.join(ours[row] for row in shared)
    story = f'{len(shared)} of {our_rows} classes by name: {names}'
    return list(shared), list(shared.values()), story if shared else 'no class name in common'


def _plain(name: str) -> str:
    """A class name without what datasets write differently."""
    return re.sub(r'[\s_-]+', ' ', name).strip().casefold()


def _classes_in(meta: Mapping[str, Any]) -> list[str]:
    """The class names that MMSegmentation stored in a checkpoint's ``meta``; empty without any."""
    of_dataset = meta.get('dataset_meta')
    of_dataset = of_dataset if isinstance(of_dataset, Mapping) else {}
    names = of_dataset.get('classes') or of_dataset.get('CLASSES') or meta.get('CLASSES') or ()
    return [str(name) for name in names]
