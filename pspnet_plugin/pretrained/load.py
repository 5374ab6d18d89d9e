"""A reference -> weights in a module, all of them or an error, with a report of each tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .advice.judge import judge
from .errors import PretrainedWeightsError
from .match.plan import LoadPlan, plan_load
from .match.search import find_match
from .report import LoadReport, report_on
from .settings import LoadSettings
from .source.download import fetch
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
    given = LoadSettings.of('load_pretrained', checkpoint=checkpoint, **settings)
    own = tensors_of(module)
    location = resolve(given.checkpoint)
    path, sha256 = fetch(location, given.sha256)
    content = read_checkpoint(path, given.trust_pickle)
    match = find_match(content, own, given.conversion, given.prefix, given.key_map)
    plan = plan_load(module, own, match, content.meta, given.first_conv, given.rows_by_name)
    refusal, notes = judge(plan, module, given)
    if not refusal:
        write(plan)
    report = report_on(
        plan, given.checkpoint, path, sha256, type(module).__name__, content.meta, notes
    )
    if refusal:
        raise PretrainedWeightsError(f'{given.checkpoint} {refusal}', report)
    return report


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of ``module`` themselves, by name."""
    if not isinstance(module, nn.Module):
        raise PretrainedWeightsError(f'{module!r} is no torch.nn.Module.')
    return {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}


@torch.no_grad()
def write(plan: LoadPlan) -> None:
    """Copy the values of ``plan`` into the module's tensors, one at a time."""
    for name, value in plan.values.items():
        if name in plan.rows:
            plan.own[name][plan.rows[name]] = value.to(plan.own[name])
        else:
            plan.own[name].copy_(value)
