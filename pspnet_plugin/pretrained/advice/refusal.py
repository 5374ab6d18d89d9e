"""Whether a planned load is what the user means, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import PretrainedWeightsError
from ..match.plan import LoadOptions, LoadPlan, shapes_of, tensors_of
from ..match.search import Shapes, find_match
from ..report import LoadReport, shortened
from .causes import likeliest_cause, prefix_that_fits
from .lookalikes import anti_aliased, inner_left_over

USUAL_COVERAGE = 0.99


def check_plan(plan: LoadPlan, module: nn.Module, options: LoadOptions) -> None:
    """Raise where carrying out ``plan`` would start a training from other weights than meant.

    Raises:
        PretrainedWeightsError: too little is covered, the checkpoint has more inside the module's
            layers than the module, its network is another one, or a value is not finite.
    """
    tensors = tensors_of(module)
    problem = (
        _too_little(plan, tensors, options)
        or _too_much(plan, shapes_of(tensors))
        or _another_function(plan, module)
        or _not_finite(plan, tensors)
    )
    if problem:
        raise PretrainedWeightsError(f'{plan.report.reference} {problem}', plan.report)


def left_at_random(report: LoadReport, module_tensors: Mapping[str, Tensor]) -> list[str]:
    """The weights of two or more dimensions that would keep their random start.

    One of them decides over a network where one scale or bias of hundreds does not. None of these
    are tables of whole numbers, which a module computes, and classifiers for other classes, which
    the report lists as a group of their own.
    """
    without = [*report.missing, *report.mismatched]
    return [n for n in without if module_tensors[n].dim() > 1 and not _is_whole(module_tensors[n])]


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def _too_little(
    plan: LoadPlan, module_tensors: Mapping[str, Tensor], options: LoadOptions
) -> str | None:
    report, wanted = plan.report, options.min_coverage
    random = left_at_random(report, module_tensors) if wanted is None else []
    share = USUAL_COVERAGE if wanted is None else wanted
    if report.received and report.coverage >= share and not random:
        return None
    need = f'leaves {shortened(random)} at random' if random else f'{100 * share:g}% are needed'
    module_shapes = shapes_of(module_tensors)
    cause = likeliest_cause(plan.match, report, shapes_of(plan.tensors), module_shapes)
    return (
        f'covers {report.coverage:.1%} of {report.module} ({report.received} of {report.expected} '
        f'tensors) and {need if report.received else "gives it nothing"}. {cause}{_anyway(report)}'
        f'{_other_way(plan, module_shapes, options)}{_listing(report)}'
    )


def _anyway(report: LoadReport) -> str:
    lowest = math.floor(100 * report.coverage) / 100
    if lowest < 0.8:
        return ''
    return f' To start the rest from its initialization on purpose, say min_coverage={lowest}.'


def _too_much(plan: LoadPlan, module_shapes: Shapes) -> str | None:
    inner = inner_left_over(plan.match, module_shapes)
    inner = [name for name in inner if _says_something(plan.tensors[name])]
    if not inner:
        return None
    cause = likeliest_cause(plan.match, plan.report, shapes_of(plan.tensors), module_shapes)
    return (
        f'has {len(inner)} tensors inside the layers of {plan.report.module} that it does not '
        f'have, such as {", ".join(inner[:3])}. {cause} '
        'To leave them out on purpose, give key_map=[(pattern, None)].'
    )


def _another_function(plan: LoadPlan, module: nn.Module) -> str | None:
    name = anti_aliased(module, plan.report.reference)
    if name is None or not plan.report.reference.startswith('timm://'):
        return None
    return (
        f'fits {plan.report.module} by names and shapes and is another network: {name} smooths '
        "where it strides, which its file does not tell. Set the backbone's type to "
        f'"TIMMBackbone" with model_name={name!r}, or take weights of a plain ResNet.'
    )


def _not_finite(plan: LoadPlan, module_tensors: Mapping[str, Tensor]) -> str | None:
    for name, _, value in plan.writes:
        extremes, dtype = _extremes(value), module_tensors[name].dtype
        if not all(map(torch.isfinite, extremes)):
            return (
                f'has in {plan.match.names[name]} NaN or infinite values: the training that made '
                'the file had diverged. Take an earlier checkpoint.'
            )
        if not all(torch.isfinite(extreme.to(dtype)) for extreme in extremes):
            return (
                f'has in {plan.match.names[name]} values that are too large for the {dtype} of '
                f'the module. Take smaller weights, or a module in {value.dtype}.'
            )
    return None


def _extremes(tensor: Tensor) -> Sequence[Tensor]:
    """Numbers that are finite if and only if all of ``tensor`` is; none for whole numbers."""
    if not tensor.is_floating_point() or not tensor.numel():
        return ()
    if tensor.element_size() == 1:
        # No arithmetic is defined for the numbers of eight bits.
        tensor = tensor.float()
    # Unlike isfinite() this needs no temporary copy of the tensor.
    return torch.aminmax(tensor)


def _says_something(tensor: Tensor) -> bool:
    # Converters from Caffe wrote biases of zero, and step counters or index tables are no weights.
    if not tensor.is_floating_point():
        return False
    return tensor.is_meta or bool(tensor.to_dense().float().any())


def _other_way(plan: LoadPlan, module_shapes: Shapes, options: LoadOptions) -> str:
    """What prefix and conversion would have matched more."""
    if options.prefix is not None or options.conversion != 'auto':
        names = plan.names if options.prefix is None else {name: name for name in plan.tensors}
        better = find_match(names, shapes_of(plan.tensors), module_shapes)
        if better.fitting > plan.match.fitting:
            return (
                f' With prefix=None and conversion="auto" {better.fitting} tensors would fit '
                f'(prefix {better.prefix!r}, conversion {better.conversion}).'
            )
    return prefix_that_fits(shapes_of(plan.everything), module_shapes, plan.match.fitting)


def _listing(report: LoadReport) -> str:
    mismatched = [
        f'{name} ({theirs} in the file, {ours} in the module)'
        for name, (theirs, ours) in report.mismatched.items()
    ]
    text = ''
    for what, names in (
        ('Missing', report.missing),
        ('Of another shape', mismatched),
        ('Left over', report.left_over),
    ):
        if names:
            text += f' {what}: {shortened(names)}.'
    return text
