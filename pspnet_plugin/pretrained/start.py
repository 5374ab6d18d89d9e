"""What a run starts from: the pretrained weights that its config names, or a checkpoint.

mmengine initializes every module, and loads what ``--resume`` or ``load_from`` name over it; a
module whose class goes past its ``init_cfg`` it does not notice. Both are watched here.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from mmengine.model.averaged_model import BaseAveragedModel
from mmengine.runner import find_latest_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from ..compat.runner import starting_runner
from ..wrappers import unwrapped
from .errors import PretrainedWeightsError

INITIALIZER = 'PretrainedBackbone'


# --- a checkpoint wins --------------------------------------------------------------------------


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
        shapes.get(names.get(id(tensor))) == tensor.shape
        for name, tensor in module.state_dict(keep_vars=True).items()
        if not name.endswith('num_batches_tracked')  # old checkpoints have none
    )


# --- nothing was left out -----------------------------------------------------------------------


def initializers_of(module: nn.Module) -> list[str]:
    """The kinds of initializer that the ``init_cfg`` of ``module`` names, in its order."""
    cfgs = init_cfgs(getattr(module, 'init_cfg', None))
    return [kind_of(cfg).rpartition('.')[2] for cfg in cfgs]


def init_cfgs(init_cfg: dict | Sequence[dict] | None) -> Sequence[dict]:
    """What an ``init_cfg`` holds, one or several, as a list."""
    return [init_cfg] if isinstance(init_cfg, dict) else init_cfg or ()


def kind_of(cfg: dict) -> str:
    """The name of what a config builds; its type may be a class."""
    return str(getattr(cfg['type'], '__name__', cfg['type']))


def require_initialized(model: nn.Module) -> None:
    """Stop the run where an ``init_cfg`` names PretrainedBackbone and nobody called it.

    Raises:
        PretrainedWeightsError: with the name of the part, and what to do instead.
    """
    averages = [m for m in model.modules() if isinstance(m, BaseAveragedModel)]
    copies = {id(part) for average in averages for part in average.modules()}
    for name, module in model.named_modules():
        left_out = INITIALIZER in initializers_of(module) and not hasattr(
            module, 'pretrained_report'
        )
        # An average takes over what it averages at its first step.
        if left_out and id(module) not in copies:
            raise PretrainedWeightsError(_left_out(model, name, module))


def _left_out(model: nn.Module, name: str, module: nn.Module) -> str:
    what = f'{name or "The model"} ({type(module).__name__})'
    parts = name.split('.') if name else []
    above = [model.get_submodule('.'.join(parts[:depth])) for depth in range(len(parts))]
    left_behind = next((m for m in above if not getattr(m, 'is_init', False)), None)
    if isinstance(left_behind, BaseModule):
        return (
            f'{what} was not initialized from its init_cfg, which names {INITIALIZER}: '
            f'{type(left_behind).__name__}.init_weights() leaves it out. '
            'Let it call super().init_weights().'
        )
    hook = f"dict(type='PretrainedBackboneHook', module={name!r}, checkpoint=...)"
    return (
        f'{what} was not initialized from its init_cfg: its class went past {INITIALIZER}. Take '
        f'the init_cfg out and say custom_hooks=[{hook}], which loads the weights there too.'
    )
