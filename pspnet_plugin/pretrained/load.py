"""A reference -> weights in a module, all of them or an error, with a report of each tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .advice.causes import why_empty
from .advice.refusal import judge
from .errors import PretrainedWeightsError
from .match.plan import LoadPlan, plan_load
from .match.search import candidates_of, shapes_of
from .report import LoadReport, report_on
from .settings import LoadSettings
from .source.download import local_file
from .source.read import read_checkpoint
from .source.schemes import resolve


def load_pretrained(module: nn.Module, checkpoint: str, **settings: Any) -> LoadReport:
    """Load pretrained weights into ``module``, or raise and leave it as it was.

    Args:
        module: a backbone, a whole segmentation model, or any other module.
        checkpoint: a path or a reference such as ``torchvision://resnet50``.
        **settings: the other fields of :class:`.settings.LoadSettings`: ``prefix``, ``conversion``,
            ``key_map``, ``first_conv``, ``min_coverage``, ``sha256``, ``trust_pickle``,
            ``classes``, ``class_names``.

    Returns:
        What became of each tensor.

    Raises:
        PretrainedWeightsError: nothing was loaded, and why.
    """
    return load(module, LoadSettings.of('load_pretrained', checkpoint=checkpoint, **settings))


def load(module: nn.Module, settings: LoadSettings) -> LoadReport:
    """:func:`load_pretrained` with settings that are checked already."""
    own = tensors_of(module)
    path, digest = local_file(resolve(settings.checkpoint), settings.checkpoint, settings.sha256)
    content = read_checkpoint(path, settings.trust_pickle)
    candidates = candidates_of(content, settings.prefix, settings.key_map)
    if not candidates.tensors:
        raise PretrainedWeightsError(why_empty(str(path), content, shapes_of(own)))
    plan = plan_load(module, own, candidates, content.meta, settings)
    refusal, notes = judge(plan, module, content, settings)
    if not refusal:
        write(plan)
    report = report_on(plan, settings.checkpoint, str(path), digest, type(module).__name__, notes)
    if refusal:
        raise PretrainedWeightsError(f'{settings.checkpoint} {refusal}', report)
    return report


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of ``module`` themselves, by name."""
    if not isinstance(module, nn.Module):
        raise PretrainedWeightsError(f'{module!r} is no torch.nn.Module.')
    return {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}


@torch.no_grad()
def write(plan: LoadPlan) -> None:
    """Copy the values of ``plan`` into the module's tensors, one at a time."""
    for name, outcome in plan.outcomes.items():
        if outcome.value is None:
            continue
        if outcome.rows is None:
            plan.own[name].copy_(outcome.value)
        else:
            plan.own[name][outcome.rows] = outcome.value.to(plan.own[name])
