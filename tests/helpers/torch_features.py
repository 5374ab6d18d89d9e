"""What the installed torch cannot do, as a reason to skip a test."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

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


@contextlib.contextmanager
def saved_without_checksums() -> Iterator[None]:
    """Within this context torch writes no checksums; the test is skipped where it always does."""
    if not hasattr(torch.serialization, 'set_crc32_options'):
        pytest.skip(f'torch {torch.__version__} always writes checksums')
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(True)
