"""``compat.apply``: which torch it accepts, and that it may be called again."""

import contextlib

import pytest
import torch
from mmengine.config import Config
from mmengine.dist import utils
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from pspnet_plugin import compat


@pytest.mark.parametrize(('version', 'passes'), [('2.5.1', False), ('2.6.0+cpu', True)])
def test_torch_that_would_run_the_code_in_a_checkpoint_is_refused(monkeypatch, version, passes):
    monkeypatch.setattr(torch, '__version__', version)
    with contextlib.nullcontext() if passes else pytest.raises(ImportError, match=r'torch>=2\.6'):
        compat.apply()


def test_applying_again_changes_nothing():
    def repaired():
        return [
            CheckpointLoader.load_checkpoint.__func__,
            Config._get_cfg_path,
            Runner.from_cfg.__func__,
            Runner.register_hooks,
            utils._init_dist_pytorch,
        ]

    before = repaired()
    compat.apply()
    assert repaired() == before
