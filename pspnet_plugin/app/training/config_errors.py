"""Errors of a run that settings of its config have caused, in one line."""

from __future__ import annotations

import traceback

from torch import nn

from ...utils.text import one_line

# Parts of what mmengine says of a config that it cannot build.
BY_CONFIG = (
    ' registry. Please check',
    '__init__() got an unexpected keyword argument',
    ' should be either all None or not None',
    ' arguments when initializing runner',
    ' does not match meta information of the first dataset',
    ' should have 1 or 3 values, to be compatible',  # mean and std, with a fork of mmengine
)
# Parts of what PyTorch says where a part of a model gets other maps than it is made for.
BY_SIZES = 'Given groups=', 'index out of range', 'mat1 and mat2 shapes'


def told_of_config(error: Exception, begun: bool) -> str | None:
    """What is wrong with a config, as far as an error tells; None for one of another cause.

    Args:
        begun: whether the config was read and looked at before.
    """
    text = str(error)
    if not begun or any(part in text for part in BY_CONFIG):
        return one_line(error)
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


def part_of_model(error: Exception) -> str:
    """The name of the part of a model in which an error was raised; empty where it was in none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    callers = [frame.f_locals.get('self') for frame in frames]
    modules = [module for module in callers if isinstance(module, nn.Module)]
    whole = next((module for module in modules if hasattr(module, 'backbone')), nn.Module())
    names = {id(module): name for name, module in whole.named_modules()}
    return next((names[id(m)] for m in reversed(modules) if names.get(id(m))), '')
