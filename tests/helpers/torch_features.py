"""What the installed torch cannot do, as a reason to skip a test."""

from __future__ import annotations

import io

import pytest
import torch

from pspnet_plugin.compat import old_torch

VERSION = old_torch.version()


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
