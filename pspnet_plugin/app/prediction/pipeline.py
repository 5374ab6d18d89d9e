"""The steps that an image goes through before the network, as the config says."""

from __future__ import annotations

import copy
import io
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor

from ...errors import ImageError, PredictionError
from ...utils.text import first_line, one_line
from ..images.reading import decode, encode, read_bytes
from ..images.sources import ImageSource

# The first steps that decode a file; MMSegInferencer puts the last one into the config.
DECODERS = ('LoadImageFromFile', 'LoadImageFromNDArray', 'InferencerLoader')

BOMB = 4_000_000  # bytes; larger files may have any size in pixels


class PreparedImage(NamedTuple):
    """An image on its way to the network."""

    source: ImageSource
    pixels: np.ndarray  # at its own size, (H, W, C) or (H, W); colours are BGR
    inputs: list[Tensor]  # what the network reads, (C, H, W); several with augmentation
    samples: list[SegDataSample]  # the sizes and flips that belong to them
    shape: tuple[int, ...]  # of what goes through the network; those of a batch have the same


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
        self.decodes = kind in DECODERS
        self.backend = self.loader.get('imdecode_backend', 'cv2')
        self.color_type = self.loader.get('color_type', 'color')
        self.reads_eight_bits = self.decodes and self.color_type == 'color'
        # Whether three channels come in the order blue, green, red.
        self.bgr = self.backend != 'tifffile' if self.decodes else kind == 'LoadRaster'
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmseg'):
            self.read_as_configured = Compose([] if self.decodes else steps[:1])
            self.prepare = Compose(steps[1:])

    def __call__(self, source: ImageSource) -> PreparedImage:
        """Read and prepare one image.

        Raises:
            ImageError: it cannot be read, or does not fit the network.
        """
        results = self.read(source)
        pixels = results['img']
        try:
            packed = self.prepare(results)
        except Exception as error:  # whatever a step raises, the other images go on
            raise ImageError(
                source.name,
                f'of {pixels.shape[1]} x {pixels.shape[0]} pixels does not go through the test '
                f'pipeline ({one_line(error)}).',
            ) from error
        inputs, samples = packed['inputs'], packed['data_samples']
        if isinstance(inputs, Tensor):
            inputs, samples = [inputs], [samples]
        return PreparedImage(source, pixels, inputs, samples, tuple(inputs[0].shape))

    def read(self, source: ImageSource) -> dict[str, Any]:
        """What the first step of the config returns for one image, checked."""
        results = self._read(source)
        shape = results['img'].shape
        found = shape[2] if len(shape) == 3 else 1
        if found != self.channels or 0 in shape:
            raise ImageError(
                source.name,
                f'has the shape {shape}, but the model reads images of {self.channels} '
                f'channel{"s"[: self.channels > 1]}, (H, W, {self.channels}).',
            )
        return results

    def _read(self, source: ImageSource) -> dict[str, Any]:
        item = source.item
        if isinstance(item, str) and not self.decodes:
            try:
                return self.read_as_configured({'img_path': item})
            except Exception as error:  # it is the config's own reader
                raise ImageError(source.name, f'cannot be read ({error!r}).') from error
        if isinstance(item, np.ndarray):
            pixels = item
        else:
            if isinstance(item, Image.Image):
                content = encode(item, source.name)
            else:
                content = read_bytes(item, self.loader.get('backend_args'))
                require_no_bomb(content, source.name)
            pixels = decode(content, source.name, self.color_type, self.backend)
        if self.loader.get('to_float32'):
            pixels = pixels.astype(np.float32)
        size = pixels.shape[:2]
        # As LoadImageFromFile returns it.
        return {'img_path': source.path, 'img': pixels, 'img_shape': size, 'ori_shape': size}


def require_no_bomb(content: bytes, name: str) -> None:
    """Raise ImageError for a small file of so many pixels that it may be made to fill the memory.

    Pillow opens no image of more than 179 million pixels; large photos and scenes are larger files.
    """
    if len(content) > BOMB:
        return
    try:
        Image.open(io.BytesIO(content)).close()
    except Image.DecompressionBombError as error:
        raise ImageError(
            name,
            f'is a file of {len(content) / 1e6:.1f} MB that claims to hold an image as large as a '
            f'decompression bomb ({first_line(error)}). If it is meant, save it as a GeoTIFF and '
            'predict it with --window.',
        ) from error
    except Exception:  # decoding it says more
        return


def stated_pipeline(cfg: Config, tta: bool) -> list:
    """The steps as the config says them; a PredictionError where it says none."""
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
