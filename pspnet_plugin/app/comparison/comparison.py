"""Loaded features against those of the library that the weights come from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...pretrained.load import tensors_of
from ...pretrained.match.input_channels import first_convolution
from ...pretrained.match.search import shapes_of
from ...pretrained.report import LoadReport
from ...pretrained.source.read import read_checkpoint
from .libraries import NothingToCompareError, features_of, library_of, stride_of


def compare(
    module: nn.Module, report: LoadReport, trust_pickle: bool = False
) -> dict[str, float | None]:
    """Relative difference of the features of each stage, by the library's name for it.

    Both networks see the same random input, ``(1, 3, 64, 64)`` in float64, in eval mode.

    Returns:
        Largest difference over largest value; None where the library's network, which may not be
        dilated there, gives another resolution.

    Raises:
        NothingToCompareError: no stage can be compared.
    """
    backbone = getattr(module, 'backbone', module)
    library = library_of(backbone, report)
    _require_rgb(backbone, report)
    content = read_checkpoint(Path(report.path), trust_pickle)
    theirs = library.features(backbone, report, content.tensors or content.everything)
    ours = features_of(backbone)
    paired = zip(list(theirs.items())[-len(ours) :], ours[-len(theirs) :])
    differences = {
        stage: ((b - a).abs().max() / a.abs().max()).item() if a.shape == b.shape else None
        for (stage, a), b in paired
    }
    if all(difference is None for difference in differences.values()):
        raise NothingToCompareError(
            f'no stage of the module has the shape that {library.module} gives it: nothing to '
            'compare.'
        )
    return differences


def reason_for_difference(module: nn.Module, report: LoadReport) -> str | None:
    """Why features of the same weights can differ in the dilated stages, and how to see past it."""
    backbone = getattr(module, 'backbone', module)
    if stride_of(backbone) == 32 or hasattr(backbone, 'timm_model'):
        return None
    if getattr(backbone, 'avg_down', False):
        # timm.models.resnet.downsample_avg keeps AvgPool2dSame(2) where it does not stride.
        why = (
            "in a dilated stage timm's shortcut averages 2 x 2 pixels and that of ResNetV1d does "
            'not, whatever contract_dilation says'
        )
    else:
        why = (
            'libraries dilate in their own ways (contract_dilation=True is like torchvision and '
            'timm, False like segmentation_models_pytorch)'
        )
    return (
        f'{why}. With strides=(1,2,2,2) dilations=(1,1,1,1) all stages agree if only that differs.'
    )


def _require_rgb(backbone: nn.Module, report: LoadReport) -> None:
    shapes = shapes_of(tensors_of(backbone))
    first = first_convolution(shapes)
    if first is not None and shapes[first][1] != 3:
        raise NothingToCompareError(
            f"the module has {shapes[first][1]} input channels and the library's network RGB: "
            'nothing to compare. Compare with in_channels=3 once: the other layers are the same.'
        )
    adapted = [story for name, story in report.adapted.items() if name.endswith(first or ' ')]
    if adapted:
        raise NothingToCompareError(
            f"first_conv rearranged the colours ({adapted[0]}), the library's network has them as "
            'they were: nothing to compare. Compare without first_conv once.'
        )
