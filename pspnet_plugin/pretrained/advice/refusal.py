"""Whether a planned load is refused, before anything is written, and what the error says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...utils.text import shortened
from ..match.input_channels import COLOURS, channels_of, reads_image_elsewhere
from ..match.plan import LoadPlan, has_numbers
from ..match.search import find_match
from ..settings import LoadSettings
from ..source.read import Checkpoint
from .causes import likeliest_cause, prefix_that_fits
from .lookalikes import another_network, inner_left_over, notes_on, second_networks

USUAL_COVERAGE = 0.99


def judge(
    plan: LoadPlan, module: nn.Module, content: Checkpoint, settings: LoadSettings
) -> tuple[str | None, list[str]]:
    """What is wrong with carrying out ``plan``, and notes for the report.

    Returns:
        The rest of a sentence about the reference; None where the plan covers enough, the
        checkpoint has nothing more inside the module's layers, its network is the module's, and all
        values are such as training gives. And what a reader should know anyway.
    """
    kind = type(module).__name__
    elsewhere = _reads_image_elsewhere(plan, module, settings)
    in_more_places = (
        f'cannot be rearranged for other input channels: {kind} reads the image in more places '
        f'than {", ".join(plan.named("adapted"))}. Leave first_conv out and give it RGB images '
        '(bgr_to_rgb=True in the data_preprocessor, for files as OpenCV reads them).'
    )
    refusal = (
        _too_little(plan, kind, content, settings)
        or _too_much(plan, kind)
        or another_network(module, plan, settings)
        or _impossible_values(plan, settings.min_coverage is None)
        or (in_more_places if elsewhere else None)
    )
    notes = notes_on(module, plan.match.conversion, settings.checkpoint)
    if settings.prefix is None:
        notes = [*second_networks(plan, content), *notes]
    if elsewhere is None:
        notes.append(f'{kind} takes none of the images on which other channels are tried')
    return refusal, notes


def _too_little(
    plan: LoadPlan, kind: str, content: Checkpoint, settings: LoadSettings
) -> str | None:
    coverage = plan.received / plan.expected if plan.expected else 0.0
    without = _without_a_value(plan) if settings.min_coverage is None else []
    share = USUAL_COVERAGE if settings.min_coverage is None else settings.min_coverage
    if plan.received and coverage >= share and not without:
        return None
    need = f'{100 * share:g}% are needed' if plan.received else 'gives it nothing'
    if without:
        need = f'leaves {shortened(without)} without a value'
    lowest = math.floor(100 * coverage) / 100
    anyway = f' To start the rest from its initialization, say min_coverage={lowest}.'
    return (
        f'covers {coverage:.1%} of {kind} ({plan.received} of {plan.expected} tensors) and {need}. '
        f'{likeliest_cause(plan)}{anyway if lowest >= 0.8 else ""}'
        f'{_other_way(plan, content, settings)}{_listing(plan)}'
    )


def _without_a_value(plan: LoadPlan) -> list[str]:
    """Weights of two or more dimensions and running statistics that would keep their start.

    A single one changes what the whole network computes, unlike one scale or bias of hundreds.
    Not among them: integer tables, which a module computes by itself, and classifiers for other
    classes, which the report lists as a group of their own.
    """
    without = [*plan.named('missing'), *plan.named('mismatched')]
    own = {name: plan.own[name] for name in without}
    weights = [n for n, t in own.items() if t.is_floating_point() or t.is_complex()]
    return [n for n in weights if own[n].dim() > 1 or n.endswith(('running_mean', 'running_var'))]


def _other_way(plan: LoadPlan, content: Checkpoint, settings: LoadSettings) -> str:
    """What prefix and conversion would have matched more."""
    if settings.conversion != 'auto':
        better = find_match(plan.candidates.names, plan.shapes, plan.module_shapes)
        if better.fitting > plan.match.fitting:
            return f' With conversion="auto" {better.fitting} tensors would fit.'
    return prefix_that_fits(content, plan.module_shapes, settings.prefix, plan.match.fitting)


def _listing(plan: LoadPlan) -> str:
    mismatched = [
        f'{name} ({theirs} in the file, {ours} in the module)'
        for name, (theirs, ours) in plan.named('mismatched').items()
    ]
    groups = {
        'Missing': list(plan.named('missing')),
        'Of another shape': mismatched,
        'Left over': plan.left_over,
    }
    return ''.join(f' {what}: {shortened(names)}.' for what, names in groups.items() if names)


def _too_much(plan: LoadPlan, kind: str) -> str | None:
    inner = inner_left_over(plan.match, plan.module_shapes)
    inner = [name for name in inner if _is_not_zero(plan.candidates.tensors[name])]
    if not inner:
        return None
    return (
        f'has {len(inner)} tensors inside the layers of {kind} that it does not have, such as '
        f'{", ".join(inner[:3])}. {likeliest_cause(plan)} '
        'To leave them out on purpose, give key_map=[(pattern, None)].'
    )


def _is_not_zero(tensor: Tensor) -> bool:
    # Converters from Caffe wrote biases of zero, and step counters or index tables are no weights.
    return tensor.is_floating_point() and (not has_numbers(tensor) or bool(tensor.float().any()))


def _reads_image_elsewhere(
    plan: LoadPlan, module: nn.Module, settings: LoadSettings
) -> bool | None:
    """Whether named channels reach less than all that reads them; None where that is not known."""
    sources = channels_of(settings.first_conv)
    if sources in (None, list(COLOURS)):
        return False
    outcomes = plan.outcomes.items()
    values = {n: o.value for n, o in outcomes if o.value is not None and o.rows is None}
    return reads_image_elsewhere(module, values, len(sources))


def _impossible_values(plan: LoadPlan, by_default: bool) -> str | None:
    for name, outcome in plan.outcomes.items():
        extremes = _extremes(outcome.value) if outcome.value is not None else ()
        if not extremes:
            continue
        said, dtype = f'has in {plan.match.names[name]}', plan.own[name].dtype
        if not all(map(torch.isfinite, extremes)):
            return (
                f'{said} NaN or infinite values: the training that made the file had diverged. '
                'Take an earlier checkpoint.'
            )
        if not all(torch.isfinite(extreme.to(dtype)) for extreme in extremes):
            return (
                f'{said} values that are too large for the {dtype} of the module. Take smaller '
                f'weights, or a module in {extremes[0].dtype}.'
            )
        if name.endswith('running_var') and extremes[0] < 0:
            return f'{said} negative variances: the file is broken. Take another copy of it.'
        # Scales of zero are a start of residual blocks, and tokens and position tables may be zero.
        if (
            by_default
            and plan.own[name].dim() > 1
            and name.endswith('weight')
            and not any(extremes)
        ):
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
