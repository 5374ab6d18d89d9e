"""``init_cfg=dict(type='PretrainedBackbone', checkpoint=...)``."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.model import is_model_wrapper
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from ..compat import runner
from .errors import PretrainedWeightsError
from .load import load_pretrained
from .report import LoadReport
from .start import checkpoint_over, initializers_of, require_initialized

if require_initialized not in runner.after_init:
    runner.after_init.append(require_initialized)

SETTINGS = tuple(name for name in inspect.signature(load_pretrained).parameters if name != 'module')


@WEIGHT_INITIALIZERS.register_module()
class PretrainedBackbone:
    """Initializes a module from pretrained weights, or stops the run with the reason.

    Like mmengine's ``Pretrained`` it comes last: parts of the module that have an initialization of
    their own run it before. Given to a backbone it loads the backbone, given to the segmentor it
    loads the whole model.

    Where the run resumes, or ``load_from`` holds all of the module, it loads nothing: the
    checkpoint would overwrite it.

    Example:
        >>> backbone = dict(
        ...     type='ResNet', depth=50,
        ...     init_cfg=dict(type='PretrainedBackbone', checkpoint='torchvision://resnet50'))

    The arguments are those of :func:`pspnet_plugin.pretrained.load_pretrained`.
    """

    def __init__(
        self,
        checkpoint: str = '',
        prefix: str | None = None,
        conversion: str = 'auto',
        key_map: Sequence | None = None,
        first_conv: str | Mapping[str, Any] = 'adapt',
        min_coverage: float | None = None,
        sha256: str | None = None,
        trust_pickle: bool = False,
        classes: str | None = None,
        class_names: Sequence[str] | None = None,
        **unknown: Any,
    ):
        refuse_unknown(type(self).__name__, unknown, SETTINGS)
        if not checkpoint:
            raise PretrainedWeightsError(
                f'{type(self).__name__} needs a checkpoint: a file, or a reference such as '
                'torchvision://resnet50.'
            )
        self.checkpoint = checkpoint
        self.settings = {
            'prefix': prefix,
            'conversion': conversion,
            'key_map': key_map,
            'first_conv': first_conv,
            'min_coverage': min_coverage,
            'sha256': sha256,
            'trust_pickle': trust_pickle,
            'classes': classes,
            'class_names': class_names,
        }

    def __call__(self, module: nn.Module) -> LoadReport | None:
        """Load the weights into ``module``; log the report and write it beside the run's log."""
        _refuse_later_initializers(module)
        _initialize_children(module)
        wins = checkpoint_over(module)
        if wins:
            what = f'{self.checkpoint} is not loaded into {type(module).__name__}'
            print_log(f'{what}: the run goes on from {wins}.', logger='current')
            module.pretrained_report = None
            return None
        try:
            report = load_pretrained(module, self.checkpoint, **self.settings)
        except PretrainedWeightsError as error:
            if error.report is not None and error.report.expected:
                print_log(str(error.report), logger='current', level=logging.ERROR)
            raise
        print_log(str(report), logger='current')
        _write_beside_log(report)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, f'PretrainedBackbone: loaded from {self.checkpoint}')
        module.pretrained_report = report
        return report


def refuse_unknown(owner: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise for the first setting that ``owner`` does not have, with the one that is meant.

    Raises:
        PretrainedWeightsError: a name in ``given`` is not among ``known``.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            way_out = f'Did you mean {near[0]}?' if near else f'It has {", ".join(known)}.'
            raise PretrainedWeightsError(f'{owner} has no setting {name!r}. {way_out}')


def _refuse_later_initializers(module: nn.Module) -> None:
    """mmengine runs a list of init_cfg in its order, so one behind ours would undo the loading."""
    kinds = initializers_of(module)
    if PretrainedBackbone.__name__ in kinds[:-1] and kinds[-1] != PretrainedBackbone.__name__:
        raise PretrainedWeightsError(
            f'init_cfg of {type(module).__name__} has {kinds[-1]} behind PretrainedBackbone, which '
            'would overwrite the loaded weights. Put PretrainedBackbone last.'
        )


def _initialize_children(module: nn.Module) -> None:
    """Run the initialization of the parts now, so that none of it runs after the loading."""
    for child in module.children():
        if is_model_wrapper(child) and not hasattr(child, 'init_weights'):
            child = child.module
        if hasattr(child, 'init_weights') and not getattr(child, 'is_init', False):
            child.init_weights()
            if hasattr(module, '_params_init_info'):
                name = type(child).__name__
                update_init_info(child, f'Initialized by `init_weights` of {name}')
            child.is_init = True


def _write_beside_log(report: LoadReport) -> None:
    if not is_main_process():
        return
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            report.write_json(Path(handler.baseFilename).parent)
            return
