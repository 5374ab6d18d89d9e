"""Errors of a run that settings of its config have caused, in one line."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from types import FrameType

from torch import nn

from ...utils.config_tree import kind_of
from ...utils.text import one_line

# What is wrong with parts of these packages are the settings that they get.
OTHERS = 'mmengine.', 'mmcv.', 'mmseg.', 'torch.', 'pspnet_plugin.'
# Modules that raise errors about settings alone.
OF_RUNS = 'mmengine.registry', 'mmengine.runner', 'mmengine.optim', 'mmengine.hooks'
# Parts of what PyTorch says where a part of a model gets other maps than it is made for.
BY_SIZES = 'Given groups=', 'index out of range', 'mat1 and mat2 shapes'
LONGEST = 200  # characters of settings
PLAIN = str, int, float, dict, list, tuple, type(None)


def told_of_config(error: Exception, begun: bool) -> str | None:
    """What is wrong with a config, as far as an error tells; None for one of another cause.

    Args:
        begun: whether the config was read and looked at before.
    """
    text = str(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    building = [frame for frame in frames if frame.f_code.co_name == 'build_from_cfg']
    if building and building[-1] is not frames[-1]:
        settings, built = (building[-1].f_locals.get(name) for name in ('cfg', 'obj_cls'))
        if isinstance(settings, dict) and str(getattr(built, '__module__', '')).startswith(OTHERS):
            return f'{one_line(error)} ({kind_of(settings)}: {shown(settings)})'
    elif (
        not begun
        or module_of(frames[-1]).startswith(OF_RUNS)
        or any(frame.f_code.co_name == 'from_cfg' for frame in frames)  # of mmengine's Runner
        or (isinstance(error, (TypeError, AssertionError)) and are_stock(frames))
    ):
        parts = [frame.f_locals['self'] for frame in frames if 'self' in frame.f_locals]
        return one_line(error) + (f' ({type(parts[-1]).__name__})' if begun and parts else '')
    part = part_of_model(error)
    if part and any(words in text for words in BY_SIZES):
        return (
            f'model.{part} does not fit what it gets ({one_line(error)}): set in_channels and '
            "in_index of each head to the backbone's maps (of another depth they have other "
            "channels), and in_channels of the backbone to the images' channels."
        )
    if 'Expected more than 1 value per channel' in text:
        return (
            f'{text}: one image that is pooled to one value is too little for batch norm. Set '
            'batch_size to 2 or more, drop_last=True where the last batch of an epoch has one '
            "image, or norm_cfg=dict(type='GN', num_groups=32)."
        )
    return None


def module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get('__name__'))


def are_stock(frames: Sequence[FrameType]) -> bool:
    """Whether a part of MMSegmentation failed and nobody's own code took part in the run."""
    modules = [module_of(frame) for frame in frames]
    failed = next(module for module in reversed(modules) if not module.startswith('torch.'))
    stock = (*OTHERS, 'runpy', '<run_path>')
    return failed.startswith('mm') and all(module.startswith(stock) for module in modules)


def shown(settings: dict) -> str:
    """The first settings of a part, as a config has them; without what was built for it before."""
    plain = {name: value for name, value in settings.items() if isinstance(value, PLAIN)}
    told = ', '.join(f'{name}={value!r}' for name, value in plain.items() if name != 'type')
    return told if len(told) <= LONGEST else f'{told[:LONGEST]} …'


def part_of_model(error: Exception) -> str:
    """The name of the part of a model in which an error was raised; empty where it was in none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    callers = [frame.f_locals.get('self') for frame in frames]
    modules = [module for module in callers if isinstance(module, nn.Module)]
    whole = next((module for module in modules if hasattr(module, 'backbone')), nn.Module())
    names = {id(module): name for name, module in whole.named_modules()}
    return next((names[id(m)] for m in reversed(modules) if names.get(id(m))), '')
