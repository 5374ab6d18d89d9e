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

    Pictures have the folders of their images in their names, by which mmseg's replace each other.
    """

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence
    ) -> None:
        """Draw on the images of a batch."""
        if not self.draw or not self.every_n_inner_iters(batch_idx, self.interval):
            return
        _, dataset = next(datasets_of(runner.cfg, ['test_dataloader']))
        load = TRANSFORMS.build(dataset['pipeline'][0])
        root = dataset.get('data_root') or ''
        folder = os.path.join(root, (dataset.get('data_prefix') or {}).get('img_path') or '')
        for output in outputs:
            picture = to_rgb(load({'img_path': output.img_path})['img'])
            path = Path(os.path.relpath(output.img_path, folder))
            name = f'test_{path.name if ".." in path.parts else "_".join(path.parts)}'
            self._visualizer.add_datasample(
                name, picture, output, show=self.show, wait_time=self.wait_time, step=runner.iter
            )
