"""``init_cfg=dict(type='PretrainedBackbone', checkpoint=...)``, in a run or without one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger, print_log
from mmengine.model.averaged_model import BaseAveragedModel
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import find_latest_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from ..compat.runner import after_init, starting_runner
from ..utils.config_tree import init_cfgs, kind_of
from ..utils.distributed import unwrapped
from .advice.pixels import note_pixels
from .errors import PretrainedWeightsError
from .load import load_pretrained
from .report import LoadReport
from .settings import LoadSettings

SAMPLES = '_pretrained_samples'


@WEIGHT_INITIALIZERS.register_module()
class PretrainedBackbone:
    """Initializes a module from pretrained weights, or stops the run with the reason.

    Like mmengine's ``Pretrained`` it comes last: parts of the module that have an initialization of
    their own run it before. Where the run resumes, or ``load_from`` holds all of the module, it
    loads nothing: the checkpoint would overwrite it.

    Args:
        checkpoint: a path or a reference such as ``torchvision://resnet50``.
        **settings: the other fields of :class:`.settings.LoadSettings`.

    Raises:
        PretrainedWeightsError: a setting is unknown or has a wrong type or value.
    """

    def __init__(self, checkpoint: str = '', **settings: Any):
        self.settings = LoadSettings.of(type(self).__name__, checkpoint=checkpoint, **settings)

    def __call__(self, module: nn.Module) -> LoadReport | None:
        """Load the weights into ``module``; log the report and write it beside the run's log.

        The report is kept as ``module.pretrained_report``; None where a checkpoint of the run wins.
        """
        _refuse_later_initializers(module)
        _initialize_children(module)
        wins = checkpoint_over(module)
        report = None if wins else self._load(module)
        if wins:
            what = f'{self.settings.checkpoint} is not loaded into {type(module).__name__}'
            print_log(f'{what}: the run goes on from {wins}.', logger='current')
        module.pretrained_report = report  # type: ignore[assignment]
        for part in module.modules():  # which this has loaded over
            vars(part).pop(SAMPLES, None)
        if report is not None:
            vars(module)[SAMPLES] = samples(module, [*report.loaded, *report.adapted])
        return report

    def _load(self, module: nn.Module) -> LoadReport:
        try:
            report = load_pretrained(module, **vars(self.settings))
        except PretrainedWeightsError as error:
            if error.report is not None:
                print_log(str(error.report), logger='current', level=logging.ERROR)
            raise
        runner = starting_runner()
        if runner is not None:
            note_pixels(report, unwrapped(runner.model))
        print_log(str(report), logger='current')
        _write_beside_log(report)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, f'PretrainedBackbone: loaded from {self.settings.checkpoint}')
        return report


def initializers_of(module: nn.Module) -> list[str]:
    """The kinds of initializer that the ``init_cfg`` of ``module`` names, in its order."""
    return [kind_of(cfg) for cfg in init_cfgs(getattr(module, 'init_cfg', None))]


def _refuse_later_initializers(module: nn.Module) -> None:
    """mmengine runs a list of init_cfg in its order, but ``Pretrained``, which it runs last."""
    kinds, ours = initializers_of(module), PretrainedBackbone.__name__
    behind = [kind for kind in kinds if kind in ('Pretrained', 'PretrainedInit')]
    behind = behind or [kind for kind in kinds[-1:] if kind != ours]
    if ours in kinds and behind:
        raise PretrainedWeightsError(
            f'init_cfg of {type(module).__name__} has {behind[0]} behind PretrainedBackbone, which '
            'would overwrite the loaded weights. Put PretrainedBackbone last, and no Pretrained '
            'beside it.'
        )


def _initialize_children(module: nn.Module) -> None:
    """Run the initialization of the parts now, so that none of it runs after the loading."""
    for child in module.children():
        part: Any = child if hasattr(child, 'init_weights') else unwrapped(child)
        if hasattr(part, 'init_weights') and not getattr(part, 'is_init', False):
            part.init_weights()
            if hasattr(module, '_params_init_info'):
                update_init_info(part, f'Initialized by `init_weights` of {type(part).__name__}')
            part.is_init = True


def _write_beside_log(report: LoadReport) -> None:
    """``pretrained_MODULE.json`` beside the run's log file; the report of another load is kept."""
    files = [h for h in MMLogger.get_current_instance().handlers if hasattr(h, 'baseFilename')]
    if not files or not is_main_process():
        return
    path, number = Path(files[0].baseFilename).with_name(f'pretrained_{report.module}.json'), 1
    while path.exists():
        number += 1
        path = path.with_name(f'pretrained_{report.module}_{number}.json')
    path.write_text(json.dumps(report.as_dict(), indent=2) + '\n', encoding='utf-8')


# --- a checkpoint of the run wins ---------------------------------------------------------------


def checkpoint_over(module: nn.Module) -> str | None:
    """The checkpoint that the starting run will load over all of ``module``, None where none is."""
    runner = starting_runner()
    if runner is None or runner._has_loaded:
        return None
    if runner._resume:
        # A checkpoint to resume from is one that a run has saved, with the whole model in it.
        return runner._load_from or find_latest_checkpoint(runner.work_dir)
    if runner._load_from and _holds(runner._load_from, module, unwrapped(runner.model)):
        return runner._load_from
    return None


def _holds(checkpoint: str, module: nn.Module, model: nn.Module) -> bool:
    """Whether every tensor of ``module`` stands in ``checkpoint``: mmengine leaves the others."""
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    theirs = content.get('state_dict', content) if isinstance(content, dict) else {}
    shapes = {str(k).removeprefix('module.'): getattr(v, 'shape', None) for k, v in theirs.items()}
    names = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    return all(
        shapes.get(names.get(id(tensor), '')) == tensor.shape
        for name, tensor in module.state_dict(keep_vars=True).items()
        if not name.endswith('num_batches_tracked')  # old checkpoints have none
    )


# --- no init_cfg is left out, and nothing initializes after the loading ---------------------------


def samples(module: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """A few values of each weight among these, by which to see that it has been written again."""
    own = module.state_dict()
    weights = {name: own[name] for name in names if name in own and own[name].dim() > 1}
    return {n: w.flatten()[:: max(1, w.numel() // 8)].clone() for n, w in weights.items()}


def require_kept(model: nn.Module) -> None:
    """Stop the run where most weights that were loaded into a module have been written again.

    A part of it may be: a model may have a wish for its classifier.
    """
    for name, module in model.named_modules():
        loaded = vars(module).pop(SAMPLES, {})
        now = samples(module, loaded)
        lost = [key for key in now if not torch.equal(now[key].to(loaded[key]), loaded[key])]
        if 2 * len(lost) > len(loaded):
            raise PretrainedWeightsError(
                f'{name or "The model"} ({type(module).__name__}) has lost the weights of '
                f'{module.pretrained_report.reference}: {lost[0]} and {len(lost) - 1} other '
                'weights were initialized after they had been loaded. Let init_weights() of the '
                'modules around it end with super().init_weights(), and leave init_cfg out there.'
            )


def require_initialized(model: nn.Module) -> None:
    """Stop the run where an ``init_cfg`` names PretrainedBackbone and nobody called it."""
    averages = [m for m in model.modules() if isinstance(m, BaseAveragedModel)]
    # The average of a model receives the model's weights at its first step.
    copies = {id(part) for average in averages for part in average.modules()}
    for name, module in model.named_modules():
        wanted = PretrainedBackbone.__name__ in initializers_of(module)
        if wanted and not hasattr(module, 'pretrained_report') and id(module) not in copies:
            raise PretrainedWeightsError(_left_out(model, name, module))


def _left_out(model: nn.Module, name: str, module: nn.Module) -> str:
    parts = name.split('.') if name else []
    way = [model.get_submodule('.'.join(parts[:depth])) for depth in range(len(parts))]
    culprit = next((m for m in way if not getattr(m, 'is_init', False)), module)
    return (
        f'{name or "The model"} ({type(module).__name__}) was not initialized from its init_cfg, '
        f'which names PretrainedBackbone: {type(culprit).__name__}.init_weights() leaves it out. '
        'Let it call super().init_weights(), or take the init_cfg out and say custom_hooks='
        f"[dict(type='PretrainedBackboneHook', module={name!r}, checkpoint=...)]."
    )


after_init += [require_initialized, require_kept]
