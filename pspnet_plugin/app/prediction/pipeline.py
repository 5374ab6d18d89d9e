"""The steps that an image goes through before the network, as the config says."""

from __future__ import annotations

import copy
import io
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor

from ...errors import ImageError, PredictionError
from ...segmentors import LogitsTTAModel
from ...speed.examples import input_channels
from ...utils.config_tree import kind_of
from ...utils.datasets import scope_of
from ...utils.rasters import Raster, decode_as_it_is, rasterio, read_raster
from ...utils.text import first_line, one_line
from ..images.reading import decode, encode, is_address, read_bytes, require_whole
from ..images.sources import ImageSource

# The first steps that decode a file; MMSegInferencer puts the third one into the config.
DECODERS = ('LoadImageFromFile', 'LoadImageFromNDArray', 'InferencerLoader', 'LoadRaster')

CHANGE_SIZE = ('Pad', 'Resize', 'ResizeShortestEdge', 'ResizeToMultiple')  # and nothing else
BOMB = 4_000_000  # bytes; larger files may have any size in pixels


class PreparedImage(NamedTuple):
    """An image on its way to the network."""

    source: ImageSource
    pixels: np.ndarray  # at its own size, (H, W, C) or (H, W); colours are BGR
    inputs: list[Tensor]  # what the network reads, (C, H, W); several with augmentation
    samples: list[SegDataSample]  # the sizes and flips that belong to them
    shape: tuple[int, ...]  # of what goes through the network; those of a batch have the same
    has_data: np.ndarray | None  # which pixels have data, (H, W); None where all have


class Pipeline:
    """The test pipeline of a model's config, or its ``tta_pipeline``, without labels."""

    def __init__(self, model: Any, tta: bool = False) -> None:
        cfg = model.cfg
        steps = without_labels(copy.deepcopy(stated_pipeline(cfg, tta)))
        if not steps:
            raise PredictionError("The config's test pipeline has no steps.")
        self.channels, self.mean = input_channels(model), mean_of(model)
        self.changes_pixels = steps_besides(steps, CHANGE_SIZE)
        self.loader = dict(steps[0])
        kind = str(self.loader.pop('type'))
        self.decodes, self.by_gdal = kind in DECODERS, kind == 'LoadRaster'
        self.backend = self.loader.get('imdecode_backend', 'cv2')
        self.color_type = self.loader.get('color_type', 'color')
        self.reads_eight_bits = reads_eight_bits(steps[0])
        # Of how many channels the first three come in the order blue, green, red.
        by_opencv = self.decodes and self.backend != 'tifffile'  # or as it does
        self.bgr_of = (3,) if self.by_gdal else (3, 4) if by_opencv else ()
        with DefaultScope.overwrite_default_scope(scope_of(cfg)):
            self.read_as_configured = Compose([] if self.decodes else steps[:1])
            self.prepare = Compose(steps[1:])

    def __call__(self, source: ImageSource) -> PreparedImage:
        """Read and prepare one image.

        Raises:
            ImageError: it cannot be read, or does not fit the network.
        """
        results, has_data = self.read(source)
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
        return PreparedImage(source, pixels, inputs, samples, tuple(inputs[0].shape), has_data)

    def read(self, source: ImageSource) -> tuple[dict[str, Any], np.ndarray | None]:
        """What the first step of the config returns for one image, checked, and where it has data.

        Pixels without data hold the mean, which is nothing to the network.
        """
        results, has_data = self._read(source)
        pixels = results['img']
        found = pixels.shape[2] if pixels.ndim == 3 else 1
        if found != self.channels or 0 in pixels.shape:
            raise ImageError(
                source.name,
                f'has the shape {pixels.shape}, but the model reads images of {self.channels} '
                f'channel{"s"[: self.channels > 1]}, (H, W, {self.channels}).',
            )
        if pixels.dtype.kind == 'f':
            is_finite = np.isfinite(pixels.reshape(*pixels.shape[:2], -1)).all(2)
            has_data = is_finite if has_data is None else has_data & is_finite
        if has_data is None or has_data.all():
            return results, None
        results['img'] = self.filled(pixels, has_data)
        return results, has_data

    def filled(self, pixels: np.ndarray, has_data: np.ndarray) -> np.ndarray:
        """The pixels, (H, W) or (H, W, C), with the mean where they have no data."""
        pixels = pixels.copy()
        pixels[~has_data] = self.mean
        return pixels

    def _read(self, source: ImageSource) -> tuple[dict[str, Any], np.ndarray | None]:
        item, has_data = source.item, None
        if isinstance(item, str) and not self.decodes:
            try:
                results = self.read_as_configured({'img_path': item})
            except Exception as error:  # it is the config's own reader
                raise ImageError(source.name, f'cannot be read ({error!r}).') from error
            return results, mask_of(source, results['img'])
        if isinstance(item, np.ndarray):
            pixels = item
        elif isinstance(item, str) and self.by_gdal and source.is_raster:
            pixels, has_data = read_raster(item)
        else:
            if isinstance(item, Image.Image):
                content = encode(item, source.name)
            else:
                content = read_bytes(item, self.loader.get('backend_args'))
                require_no_bomb(content, source.name)
            if self.by_gdal:
                require_whole(content, source.name)
                pixels, has_data = decode_as_it_is(content, source.name)
            else:
                pixels = decode(content, source.name, self.color_type, self.backend)
                has_data = mask_of(source, pixels)
        if self.loader.get('to_float32', self.by_gdal):
            pixels = pixels.astype(np.float32)
        size = pixels.shape[:2]
        # As LoadImageFromFile returns it.
        results = {'img_path': source.path, 'img': pixels, 'img_shape': size, 'ori_shape': size}
        return results, has_data


def mask_of(source: ImageSource, pixels: np.ndarray) -> np.ndarray | None:
    """Where a raster says that it has data, (H, W), for one that another decoder than GDAL read."""
    if not source.is_raster or rasterio is None or is_address(source.name):
        return None
    try:
        with Raster(source.name) as raster:
            has_data = raster.read()[1] if raster.has_mask else None
    except ImageError:  # what GDAL does not read has no such mask
        return None
    return has_data if has_data is not None and has_data.shape == pixels.shape[:2] else None


def mean_of(model: Any) -> np.ndarray:
    """What the preprocessor subtracts, in the order in which images come, or 0: (C,) or (1,)."""
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'mean', None) is None:
        return np.zeros(1)
    mean: np.ndarray = preprocessor.mean.flatten().cpu().numpy()
    return mean[::-1] if swaps_channels(preprocessor) else mean


def swaps_channels(preprocessor: Any) -> bool:
    """Whether BGR becomes RGB; mmseg and its fork have different names for it."""
    name = 'channel_conversion'
    return getattr(preprocessor, name if hasattr(preprocessor, name) else f'_{name}')


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


def reads_eight_bits(step: dict) -> bool:
    """Whether the first step of a pipeline reads what it decodes with 8 bits, 0 to 255."""
    kind = kind_of(step)
    is_decoder = kind in DECODERS and kind != 'LoadRaster'
    return is_decoder and step.get('color_type', 'color') != 'unchanged'


def steps_besides(steps: list, kinds: Collection[str]) -> list[str]:
    """The names of steps between the first, which reads, and the last that are none of these."""
    names = map(kind_of, without_labels(steps)[1:-1])
    return [name for name in names if name not in (*kinds, 'CheckLabels')]


def require_plain_average(cfg: Any) -> None:
    """Raise PredictionError for a ``tta_model`` that merges in a way of its own."""
    kind = (cfg.get('tta_model') or {}).get('type', 'SegTTAModel')
    meant = MODELS.get(kind) if isinstance(kind, str) else kind
    plain = SegTTAModel.merge_preds, LogitsTTAModel.merge_preds
    if getattr(meant, 'merge_preds', None) not in plain:
        raise PredictionError(
            f'The tta_model {kind} merges predictions in a way of its own. Test it with the test '
            'tool and --tta, or predict with SegTTAModel, which averages probabilities.'
        )


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
