"""The steps that an image goes through before the network, as the config says."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor

from ...errors import ImageError, PredictionError
from ...utils.text import one_line
from ..images.reading import decode, encode, read_bytes
from ..images.sources import Source

LOADER, ARRAY_LOADER = 'LoadImageFromFile', 'LoadImageFromNDArray'
RASTER_LOADER = 'LoadRaster'
INFERENCER_LOADER = 'InferencerLoader'  # what MMSegInferencer puts into the config


class Loaded(NamedTuple):
    """An image on its way to the network.

    Attributes:
        source: where it came from.
        image: its pixels at its own size, (H, W, C) or (H, W); colours are BGR.
        inputs: what the network reads, (C, H, W); several with test-time augmentation.
        samples: the sizes and flips that belong to them.
    """

    source: Source
    image: np.ndarray
    inputs: list[Tensor]
    samples: list[SegDataSample]


class Pipeline:
    """The test pipeline of a config, or its ``tta_pipeline``, without labels.

    Args:
        channels: how many channels the network reads.
    """

    def __init__(self, cfg: Config, channels: int, tta: bool = False) -> None:
        steps = without_labels(copy.deepcopy(stated_pipeline(cfg, tta)))
        if not steps:
            raise PredictionError("The config's test pipeline has no steps.")
        self.loader, self.channels = dict(steps[0]), channels
        kind = str(self.loader.pop('type'))
        self.decodes = kind in (LOADER, ARRAY_LOADER, INFERENCER_LOADER)
        # Whether three channels come in the order blue, green, red.
        by_mmcv = self.decodes and self.loader.get('imdecode_backend') != 'tifffile'
        self.bgr = by_mmcv or kind == RASTER_LOADER
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmseg'):
            self.load = Compose([] if self.decodes else steps[:1])
            self.prepare = Compose(steps[1:])

    def __call__(self, source: Source) -> Loaded:
        """Read and prepare one image.

        Raises:
            ImageError: it cannot be read, or does not fit the network.
        """
        results = self.read(source)
        image = results['img']
        try:
            packed = self.prepare(results)
        except Exception as error:  # whatever a step raises, the other images go on
            raise ImageError(
                source.name,
                f'of {image.shape[1]} x {image.shape[0]} pixels does not go through the test '
                f'pipeline ({one_line(error)}).',
            ) from error
        inputs, samples = packed['inputs'], packed['data_samples']
        if isinstance(inputs, Tensor):
            inputs, samples = [inputs], [samples]
        return Loaded(source, image, inputs, samples)

    def read(self, source: Source) -> dict[str, Any]:
        """What the loader of the config returns for one image, checked.

        Raises:
            ImageError: it cannot be read, or does not have the channels of the network.
        """
        results = self._read(source)
        image = results['img']
        found = image.shape[2] if image.ndim == 3 else 1
        if found != self.channels or 0 in image.shape:
            raise ImageError(
                source.name,
                f'has the shape {image.shape}, but the model reads images of {self.channels} '
                f'channel{"s"[: self.channels > 1]}, (H, W, {self.channels}).',
            )
        return results

    def _read(self, source: Source) -> dict[str, Any]:
        item, path = source.item, source.path
        if isinstance(item, np.ndarray):
            return self._described(item, path)
        if isinstance(item, Image.Image):
            return self._described(self._decode(encode(item, source.name), source.name), path)
        if not self.decodes:
            return self._by_config(source)
        content = read_bytes(item, self.loader.get('backend_args'))
        return self._described(self._decode(content, source.name), path)

    def _decode(self, content: bytes, name: str) -> np.ndarray:
        color_type = self.loader.get('color_type', 'color')
        return decode(content, name, color_type, self.loader.get('imdecode_backend', 'cv2'))

    def _described(self, image: np.ndarray, path: str | None) -> dict[str, Any]:
        """What ``LoadImageFromFile`` returns."""
        image = image.astype(np.float32) if self.loader.get('to_float32') else image
        size = image.shape[:2]
        return {'img_path': path, 'img': image, 'img_shape': size, 'ori_shape': size}

    def _by_config(self, source: Source) -> dict[str, Any]:
        try:
            return self.load({'img_path': source.item})
        except Exception as error:  # it is the config's own reader
            raise ImageError(source.name, f'cannot be read ({error!r}).') from error


def stated_pipeline(cfg: Config, tta: bool) -> list:
    """The steps as the config says them.

    Raises:
        PredictionError: it says none.
    """
    if tta:
        if not cfg.get('tta_pipeline'):
            raise PredictionError(
                'Test-time augmentation needs a tta_pipeline in the config, and it has none; '
                'psp_r50_cityscapes.py shows one.'
            )
        return cfg.tta_pipeline
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    steps = cfg.get('test_pipeline') or dataset.get('pipeline')
    if not steps:
        raise PredictionError('The config has no test_pipeline, and test_dataloader none either.')
    return steps


def without_labels(steps: list) -> list:
    """The steps that load no label map, also within the branches of ``TestTimeAug``."""
    kept = []
    for step in steps:
        if isinstance(step, (list, tuple)):
            step = without_labels(list(step))
            if not step:
                continue
        elif 'Annotation' in str(step.get('type')):
            continue
        elif isinstance(step.get('transforms'), (list, tuple)):
            step = {**step, 'transforms': without_labels(list(step['transforms']))}
        kept.append(step)
    return kept
