"""``init_cfg=dict(type='PretrainedBackbone', checkpoint=...)``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.model import is_model_wrapper
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from .errors import PretrainedWeightsError
from .loading import load_pretrained
from .report import LoadReport


@WEIGHT_INITIALIZERS.register_module()
class PretrainedBackbone:
    """Initializes a module from pretrained weights, or stops the run with the reason.

    Like mmengine's ``Pretrained`` it comes last: parts of the module that have an initialization of
    their own run it before. Given to a backbone it loads the backbone, given to the segmentor it
    loads the whole model.

    Example:
        >>> backbone = dict(
        ...     type='ResNet', depth=50,
        ...     init_cfg=dict(type='PretrainedBackbone', checkpoint='torchvision://resnet50'))

    The arguments are those of :func:`pspnet_plugin.pretrained.load_pretrained`.
    """

    def __init__(
        self,
        checkpoint: str,
        prefix: str | None = None,
        conversion: str = 'auto',
        key_map: Sequence | None = None,
        first_conv: str | Mapping[str, Any] = 'adapt',
        min_coverage: float = 0.99,
        sha256: str | None = None,
        trust_pickle: bool = False,
        classes: str | None = None,
        class_names: Sequence[str] | None = None,
    ):
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

    def __call__(self, module: nn.Module) -> LoadReport:
        """Load the weights into ``module``; log the report and write it beside the run's log."""
        _refuse_later_initializers(module)
        _initialize_children(module)
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


def _refuse_later_initializers(module: nn.Module) -> None:
    """mmengine runs a list of init_cfg in its order, so one behind ours would undo the loading."""
    init_cfg = getattr(module, 'init_cfg', None)
    if not isinstance(init_cfg, (list, tuple)):
        return
    kinds = [str(getattr(cfg['type'], '__name__', cfg['type'])) for cfg in init_cfg]
    ours = [kind.rpartition('.')[2] == PretrainedBackbone.__name__ for kind in kinds]
    if any(ours) and not ours[-1]:
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
