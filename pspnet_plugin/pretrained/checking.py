"""Whether a planned load is what the user means, before anything is written."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .diagnosis import inner_left_over, likeliest_cause
from .errors import PretrainedWeightsError
from .matching import find_match
from .planning import LoadOptions, LoadPlan, shapes_of, tensors_of
from .report import LoadReport, shortened


def check_plan(plan: LoadPlan, module: nn.Module, options: LoadOptions) -> None:
    """Raise where carrying out ``plan`` would start a training from other weights than meant.

    Raises:
        PretrainedWeightsError: too little is covered, the checkpoint has more inside the module's
            layers than the module, or a value is not finite.
    """
    report = plan.report
    if not report.received or report.coverage < options.min_coverage:
        raise PretrainedWeightsError(
            f'{report.reference} covers {report.coverage:.1%} of {report.module} '
            f'({report.received} of {report.expected} tensors), and min_coverage is '
            f'{options.min_coverage:.0%}. {_cause(plan, module)}'
            f'{_other_way(plan, module, options)}{_listing(report)}',
            report,
        )
    inner = inner_left_over(plan.match, shapes_of(tensors_of(module)))
    inner = [name for name in inner if _says_something(plan.tensors[name])]
    if inner:
        raise PretrainedWeightsError(
            f'{report.reference} has {len(inner)} tensors inside the layers of {report.module} '
            f'that it does not have, such as {", ".join(inner[:3])}. {_cause(plan, module)} '
            'To leave them out on purpose, give key_map=[(pattern, None)].',
            report,
        )
    for name, _, value in plan.writes:
        if not _is_finite(value):
            raise PretrainedWeightsError(
                f'{plan.match.names[name]} in {report.reference} holds NaN or infinite values: the '
                'training that made the file had diverged. Take an earlier checkpoint.',
                report,
            )


def _cause(plan: LoadPlan, module: nn.Module) -> str:
    shapes, module_shapes = shapes_of(plan.tensors), shapes_of(tensors_of(module))
    return likeliest_cause(plan.match, shapes, module_shapes, plan.names)


def _says_something(tensor: Tensor) -> bool:
    # Converters from Caffe wrote biases of zero, and step counters or index tables are no weights.
    return tensor.is_floating_point() and bool(tensor.any())


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Unlike isfinite() the extremes need no temporary copy of the tensor, and NaN is one of them.
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def _other_way(plan: LoadPlan, module: nn.Module, options: LoadOptions) -> str:
    """What prefix and conversion would have matched, where the user had fixed them."""
    if options.prefix is None and options.conversion == 'auto':
        return ''
    names = plan.names if options.prefix is None else {name: name for name in plan.tensors}
    better = find_match(names, shapes_of(plan.tensors), shapes_of(tensors_of(module)))
    if better.fitting <= plan.match.fitting:
        return ''
    return (
        f' With prefix=None and conversion="auto" {better.fitting} tensors would fit '
        f'(prefix {better.prefix!r}, conversion {better.conversion}).'
    )


def _listing(report: LoadReport) -> str:
    text = ''
    for what, names in (
        ('Missing', report.missing),
        ('Of another shape', list(report.mismatched)),
        ('Left over', report.left_over),
    ):
        if names:
            text += f' {what}: {shortened(names)}.'
    return text
