"""A reference -> weights in a module, all of them or an error, with a report of each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .advice.refusal import check_plan
from .match.plan import LoadOptions, LoadPlan, plan_load, tensors_of
from .report import LoadReport
from .source.download import local_file
from .source.read import read_checkpoint
from .source.schemes import resolve


def load_pretrained(
    module: nn.Module,
    checkpoint: str,
    *,
    prefix: str | None = None,
    conversion: str = 'auto',
    key_map: Sequence | None = None,
    first_conv: str | Mapping[str, Any] = 'adapt',
    min_coverage: float | None = None,
    sha256: str | None = None,
    trust_pickle: bool = False,
    classes: str | None = None,
    class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Load pretrained weights into ``module``, or raise and leave it as it was.

    Args:
        module: a backbone, a whole segmentation model, or any other module.
        checkpoint: a path (``.pth``, ``.pt``, ``.safetensors``) or a reference:
            ``http(s)://``, ``torchvision://``, ``timm://``, ``open-mmlab://``, ``mmseg://``,
            ``hf://``, ``package://``.
        prefix: take only names that begin so, without it; found by itself where it is None.
        conversion: name of a conversion of key names, ``'auto'`` to find the one that fits.
        key_map: pairs of a regular expression and its replacement, applied to the names in the file
            before anything else; the replacement None leaves tensors out.
        first_conv: what to do where the module sees other bands than RGB: ``'adapt'``, ``'error'``
            or ``dict(bands=['R', 'G', 'B', 'mean'])``, see :func:`first_conv.adapt_to_bands`.
        min_coverage: share of the module's tensors that must receive a value, 0 to 1. None asks for
            99 % of them and for every one of two or more dimensions: no layer is left at random.
        sha256: the hash that the file must have, or the beginning of it.
        trust_pickle: read a file that holds more than data, although that can run its code.
        classes: ``'by_name'`` copies the rows of a classifier for the classes that both have.
        class_names: the module's classes in their order, for ``classes='by_name'``.

    Returns:
        What became of each tensor.

    Raises:
        PretrainedWeightsError: nothing was loaded, and why.
    """
    options = LoadOptions(
        prefix, conversion, key_map, first_conv, min_coverage, classes, class_names
    )
    path, digest = local_file(resolve(checkpoint), checkpoint, sha256)
    content = read_checkpoint(path, trust_pickle)
    report = LoadReport(str(checkpoint), str(path), digest, type(module).__name__)
    plan = plan_load(module, content, options, report)
    check_plan(plan, module, options)
    execute(plan, module)
    return plan.report


@torch.no_grad()
def execute(plan: LoadPlan, module: nn.Module) -> None:
    """Copy the values of ``plan`` into ``module``, one tensor at a time."""
    own = tensors_of(module)
    for name, rows, value in plan.writes:
        if rows is None:
            own[name].copy_(value)
        else:
            own[name][rows] = value.to(own[name])
