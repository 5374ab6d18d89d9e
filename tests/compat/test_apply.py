"""``compat.apply`` may be called again."""

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from pspnet_plugin import compat


def test_applying_again_changes_nothing():
    def repaired():
        return [
            CheckpointLoader.load_checkpoint.__func__,
            Config._get_cfg_path,
            Runner.from_cfg.__func__,
            Runner.register_hooks,
        ]

    before = repaired()
    compat.apply()
    assert repaired() == before
