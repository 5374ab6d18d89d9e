"""What the installed torch cannot do, as a reason to skip a test."""

from __future__ import annotations

import io

import pytest
import torch
from torch.nn import utils

from pspnet_plugin.compat import old_torch

VERSION = old_torch.version()
# torch 2.0 has only the older one.
parametrized_weight_norm = getattr(utils.parametrizations, 'weight_norm', utils.weight_norm)


def needs_torch_2_1(reason: str) -> pytest.MarkDecorator:
    """Skips a test on torch 2.0, of which ``reason`` says what it does or lacks."""
    return pytest.mark.skipif(VERSION < (2, 1), reason=f'torch 2.0 {reason}')


def skip_unless_computed(dtype: torch.dtype) -> None:
    """Skip the test where the CPU, stock modules included, has no arithmetic for ``dtype``."""
    one = torch.ones(1, 1, 1, 1, dtype=dtype)
    try:
        torch.nn.functional.conv2d(one, one)
    except RuntimeError as error:
        pytest.skip(f'torch {torch.__version__} computes no {dtype} convolution on CPUs: {error}')


def skip_unless_saved(dtype: torch.dtype) -> None:
    """Skip the test where torch cannot write a tensor of ``dtype``."""
    try:
        torch.save(torch.ones(1).to(dtype), io.BytesIO())
    except KeyError:
        pytest.skip(f'torch {torch.__version__} cannot save {dtype}')
