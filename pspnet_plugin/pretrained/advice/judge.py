"""Whether a planned load is refused, before anything is written, and what a reader should know."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...utils.text import shortened
from ..match.plan import LoadPlan, has_numbers
from ..match.search import Match, is_counted, parents_of
from ..settings import LoadSettings
from ..source.read import USUAL
from .causes import another_backbone, likeliest_cause
from .lookalikes import another_network, notes_on

USUAL_COVERAGE = 0.99
SHARD = 'The file is one of several. Name their folder, or the index (.index.json) beside it.'


def judge(
    plan: LoadPlan, module: nn.Module, settings: LoadSettings
) -> tuple[str | None, list[str]]:
    """The first objection to carrying out ``plan``, and notes for the report.

    Returns:
        The rest of a sentence about the reference; None where the plan covers enough, the
        checkpoint has nothing more inside the module's layers, its network is the module's, and all
        values are such as training gives. And what a reader should know anyway.
    """
    refusals = (check(plan, module, settings) for check in CHECKS)
    notes = [note for notes in NOTES for note in notes(plan, module, settings)]
    return next(filter(None, refusals), None), notes


def _second_network(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> list[str]:
    """A note on another network in the file that fills the module like the one that was taken.

    Such are a student and its teacher, an encoder and its average.
    """
    match, other = plan.match, plan.match.other
    by_user = settings.prefix is not None or settings.conversion != 'auto'
    if by_user or other is None or not 0 < match.fitting <= other.fitting:
        return []
    if other.setting in ('', match.setting):
        return []
    return [
        f'{match.setting or match.container!r} was taken and {other.setting!r} fits as well: '
        f'prefix={other.setting!r} takes that'
    ]


def _unusual_container(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> list[str]:
    container = plan.match.container
    unusual = container and container.rpartition('.')[2] not in USUAL
    return [f'the weights stand under the top-level key {container!r}'] if unusual else []


# --- too little ---------------------------------------------------------------------------------


def _too_little(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> str | None:
    coverage = plan.received / plan.expected if plan.expected else 0.0
    without = _without_a_value(plan) if settings.min_coverage is None else []
    share = USUAL_COVERAGE if settings.min_coverage is None else settings.min_coverage
    if plan.received and coverage >= share and not without:
        return None
    need = f'{100 * share:g}% are needed' if plan.received else 'gives it nothing'
    if without:
        need = f'leaves {shortened(without)} without a value'
    shard = re.search(r'-\d{5}-of-\d{5}\.', settings.checkpoint)
    cause = SHARD if shard else likeliest_cause(plan)
    lowest = math.floor(100 * coverage) / 100
    anyway = f' To start the rest from its initialization, say min_coverage={lowest}.'
    return (
        f'covers {coverage:.1%} of {type(module).__name__} ({plan.received} of {plan.expected} '
        f'tensors) and {need}. {cause}{anyway if lowest >= 0.8 else ""}'
        f'{_other_settings(plan, settings)}{_listing(plan)}'
    )


def _without_a_value(plan: LoadPlan) -> list[str]:
    """Weights of two or more dimensions and running statistics that would stay initialized.

    A single one changes what the whole network computes, unlike one scale or bias of hundreds.
    Not among them: what the report lists as reinitialized.
    """
    own = {name: plan.own[name] for name in (*plan.missing, *plan.mismatched)}
    weights = [n for n, t in own.items() if t.is_floating_point() or t.is_complex()]
    return [n for n in weights if own[n].dim() > 1 or n.endswith(('running_mean', 'running_var'))]


def _other_settings(plan: LoadPlan, settings: LoadSettings) -> str:
    """Advice on the settings by which more tensors of the file fit."""
    other = plan.match.other
    if other is None or other.fitting <= plan.match.fitting:
        return ''
    changes = []
    if other.setting.rstrip('.') != (settings.prefix or '').rstrip('.'):
        changes.append(f'prefix={other.setting or None!r}')
    if settings.conversion != 'auto':
        changes.append("conversion='auto'")
    if not changes:
        return ''
    said = ' and '.join(changes)
    return f" Say {said}: {other.fitting} of the module's tensors fit there."


def _listing(plan: LoadPlan) -> str:
    mismatched = [
        f'{name} ({theirs} in the file, {ours} in the module)'
        for name, (theirs, ours) in plan.mismatched.items()
    ]
    groups = {'Missing': plan.missing, 'Mismatched': mismatched, 'Unexpected': plan.unexpected}
    return ''.join(f' {what}: {shortened(names)}.' for what, names in groups.items() if names)


# --- too much -----------------------------------------------------------------------------------


def _too_much(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> str | None:
    inside = unknown_inside(plan.match, plan.own)
    inside = [name for name in inside if _is_not_zero(plan.match.tensors[name])]
    if not inside:
        return None
    cause = another_backbone(plan) or 'Take the weights of this network.'
    if all(re.search(r'patch_embed\.\w+\.bias$', name) for name in inside):
        cause = 'Set patch_bias=True in the backbone.'
    return (
        f'has {len(inside)} tensors inside the layers of {type(module).__name__} that it does not '
        f'have, such as {", ".join(inside[:3])}. {cause} To leave them out on purpose, give '
        'key_map=[(pattern, None)].'
    )


def unknown_inside(match: Match, own: Iterable[str]) -> list[str]:
    """Names in the file that stand inside layers which the module has and goes on after.

    Weights of a deeper network, or of one with more in each block, fill a module completely and
    still make another function of it. Tensors behind the module's last layer (a classifier, other
    heads) are none of these.
    """
    order = {name: index for index, name in enumerate(own)}
    last_received = max((order[name] for name in match.names if is_counted(name)), default=-1)
    last_below = {parent: index for name, index in order.items() for parent in parents_of(name)}
    inside = []
    for original, name in match.unknown.items():
        parent = next((p for p in reversed(parents_of(name)) if p in last_below), '')
        at_root = parent in ('', match.module_prefix.rstrip('.'))
        if is_counted(name) and not at_root and last_below[parent] < last_received:
            inside.append(original)
    return inside


def _is_not_zero(tensor: Tensor) -> bool:
    # Converters from Caffe wrote biases of zero, and step counters or index tables are no weights.
    return tensor.is_floating_point() and (not has_numbers(tensor) or bool(tensor.float().any()))


# --- values and channels ------------------------------------------------------------------------


def _impossible_values(plan: LoadPlan, module: nn.Module, settings: LoadSettings) -> str | None:
    for name, value in plan.values.items():
        extremes = _extremes(value)
        if not extremes:
            continue
        said, own = f'has in {plan.match.names[name].originals[0]}', plan.own[name]
        if not all(map(torch.isfinite, extremes)):
            return (
                f'{said} NaN or infinite values: the training that made the file had diverged. '
                'Take an earlier checkpoint.'
            )
        if not all(torch.isfinite(extreme.to(own.dtype)) for extreme in extremes):
            return (
                f'{said} values that are too large for the {own.dtype} of the module. Take smaller '
                f'weights, or a module in {extremes[0].dtype}.'
            )
        if name.endswith('running_var') and extremes[0] < 0:
            return f'{said} negative variances: the file is broken. Take another copy of it.'
        # Scales of residual blocks may start at zero, and so may tokens and position tables.
        is_trained = (own.dim() > 1 and name.endswith('weight')) or name.endswith('running_var')
        if settings.min_coverage is None and is_trained and not any(extremes):
            return (
                f'{said} nothing but zeros: its layer was never trained or lost its values. Take '
                'other weights, or say min_coverage=1 to load it nevertheless.'
            )
    return None


def _extremes(tensor: Tensor) -> Sequence[Tensor]:
    """Numbers that are finite if and only if all of ``tensor`` is; none for integers."""
    if not tensor.is_floating_point() or not tensor.numel():
        return ()
    # Unlike isfinite() this copies no large tensor; of small numbers not every torch can do it.
    return torch.aminmax(tensor if tensor.element_size() > 2 else tensor.float())


CHECKS = (_too_little, _too_much, another_network, _impossible_values)
NOTES = (_unusual_container, _second_network, notes_on)
