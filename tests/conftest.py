"""Fixtures of all test folders."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
import torch
from mmengine.utils import ManagerMixin
from mmseg.registry import MODELS

import pspnet_plugin  # noqa: F401  repairs the stock stack before any test imports mmseg.models
from pspnet_plugin.compat import runner
from pspnet_plugin.replacements import REPLACEMENTS
from tests.helpers.street_scenes import make_street_scenes


def pytest_configure(config: pytest.Config) -> None:
    """With ``-n``, each worker computes in one thread, as do the processes that its tests start."""
    if config.getoption('numprocesses', None):
        os.environ.setdefault('OMP_NUM_THREADS', '1')


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no collection of garbage looks at it."""
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_of_an_earlier_run():
    """A Runner leaves its default scope, logger, messages and visualizer for the next one."""

    def forget(kind: type[ManagerMixin]) -> None:
        kind._instance_dict.clear()
        for narrower in kind.__subclasses__():
            forget(narrower)

    forget(ManagerMixin)


@pytest.fixture(scope='session')
def street_scenes(tmp_path_factory) -> Path:
    """Six images of 64 x 128 pixels in the exact folders and names of Cityscapes."""
    return make_street_scenes(tmp_path_factory.mktemp('cityscapes'))


@pytest.fixture
def process_group(tmp_path) -> Iterator[None]:
    """A group of this process alone, as DistributedDataParallel needs one."""
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def accelerate(monkeypatch) -> Callable[[], None]:
    """Turns ``pspnet_plugin.accelerate`` on when called, and everything back after the test."""
    monkeypatch.setattr(runner, 'added_hooks', [])
    for name in REPLACEMENTS:
        monkeypatch.setitem(MODELS._module_dict, name, MODELS.get(name))
    return lambda: importlib.import_module('pspnet_plugin.accelerate').enable()
