"""What ``pspnet test --show-dir`` draws on: images as the config reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.registry import TRANSFORMS

from ...utils.datasets import datasets_of
from ..images.drawing import to_rgb


@HOOKS.register_module()
class AnyImageVisualizationHook(SegVisualizationHook):
    """mmseg's hook, which reads every image by OpenCV as three colours, for those of any bands.

    Images of one name in several folders have a picture each; mmseg's replace each other.
    """

    def before_test(self, runner: Runner) -> None:
        """Forget the images of an earlier test."""
        self._first: dict[str, Path] = {}  # images by their names

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence
    ) -> None:
        """Draw on the images of a batch."""
        if not self.draw or not self.every_n_inner_iters(batch_idx, self.interval):
            return
        _, dataset = next(datasets_of(runner.cfg, ['test_dataloader']))
        load = TRANSFORMS.build(dataset['pipeline'][0])
        for output in outputs:
            picture = to_rgb(load({'img_path': output.img_path})['img'])
            path = Path(output.img_path)
            first = self._first.setdefault(path.name, path)
            folder = path.parent if path == first else os.path.commonpath([path, first])
            name = f'test_{"_".join(path.relative_to(folder).parts)}'
            self._visualizer.add_datasample(
                name, picture, output, show=self.show, wait_time=self.wait_time, step=runner.iter
            )
