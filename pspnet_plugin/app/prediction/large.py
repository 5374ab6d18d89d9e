"""Images of any size at their own resolution: predicted in windows, rasters also read in them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ..images import rasters
from ..images.sources import Source
from .outputs import LARGEST, Job, shares
from .pipeline import Loaded
from .predictor import Predictor, class_probabilities, full_logits
from .result import PALETTE_SIZE, Prediction
from .windows import Block, blend, check_windows, largest


class WindowPredictor(Predictor):
    """Predicts images at their own size, without the ``Resize`` of the config's test pipeline.

    Args:
        model, probabilities: as for :func:`.api.predict`.
        window: the side of the windows in pixels.
        overlap: how many pixels neighbours share at least; None for a quarter of a window.

    Raises:
        PredictionError: window and overlap do not fit each other.
    """

    def __init__(
        self,
        model: nn.Module,
        window: int,
        overlap: int | None = None,
        probabilities: bool = False,
    ) -> None:
        super().__init__(model, probabilities=probabilities)
        self.window = window
        self.overlap = window // 4 if overlap is None else overlap
        check_windows(self.window, self.overlap)
        binary = self.model.out_channels == 1
        self.threshold = self.model.decode_head.threshold if binary else None

    def load(self, source: Source) -> Loaded:
        """Read one image."""
        return Loaded(source, self.pipeline.read(source)['img'], [], [])

    def predict_loaded(self, images: list[Loaded]) -> list[Prediction]:
        """Predict images one after another."""
        return [self._whole(image) for image in images]

    def _whole(self, loaded: Loaded) -> Prediction:
        image = loaded.image
        size = image.shape[0], image.shape[1]
        label_map: np.ndarray = np.empty(size, self.label_type)
        shape = len(self.classes), *size
        probabilities = np.empty(shape, np.float32) if self.probabilities else None

        def cut(row: int, column: int, height: int, width: int) -> np.ndarray:
            return image[row : row + height, column : column + width]

        for block in self.blocks(size, cut):
            labels = largest(block.probabilities, self.threshold)
            height, width = labels.shape
            place = slice(block.row, block.row + height), slice(block.column, block.column + width)
            label_map[place] = labels
            if probabilities is not None:
                probabilities[(slice(None), *place)] = block.probabilities.cpu().numpy()
        return Prediction(
            label_map, probabilities, self.classes, self.palette, image, loaded.source
        )

    @torch.no_grad()
    def blocks(
        self, size: tuple[int, int], cut: Callable[[int, int, int, int], np.ndarray]
    ) -> Iterator[Block]:
        """The result for an image of ``size``, in parts.

        Args:
            cut: gives the pixels of (row, column, height, width), (h, w) or (h, w, C).
        """
        with full_logits(self.model):
            yield from blend(
                size, self.window, self.overlap, lambda *place: self._of_window(cut(*place))
            )

    def _of_window(self, pixels: np.ndarray) -> Tensor:
        planes = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
        if planes.dtype == np.uint16:  # torch before 2.3 has no such type
            planes = planes.astype(np.int32)
        size = tuple(pixels.shape[:2])
        sample = SegDataSample(metainfo={'img_shape': size, 'ori_shape': size})
        data = {'inputs': [torch.from_numpy(planes.copy())], 'data_samples': [sample]}
        return class_probabilities(self.model.test_step(data)[0])

    @property
    def label_type(self) -> type:
        """The smallest type that holds the labels."""
        return np.uint8 if len(self.classes) <= PALETTE_SIZE else np.uint16


def predict_raster(predictor: WindowPredictor, job: Job) -> list[str]:
    """Write the label map of a raster, and its probabilities where the job has a file for them.

    Both have the georeference of the image. Pixels without data have the largest label that the
    file can hold, and probability 0.

    Returns:
        The share of each class among the pixels with data.

    Raises:
        ImageError: the raster cannot be read, or does not fit the model.
    """
    assert job.labels is not None
    classes = len(predictor.classes)
    nodata = int(np.iinfo(predictor.label_type).max)
    counts = np.zeros(classes, np.int64)
    loader = predictor.pipeline.loader
    as_colours = predictor.pipeline.decodes and loader.get('color_type', 'color') == 'color'
    with contextlib.ExitStack() as stack:
        stack.enter_context(rasters.limited_cache())
        raster = rasters.Raster(
            job.source.name, predictor.pipeline.channels, predictor.pipeline.bgr, as_colours
        )
        stack.callback(raster.close)
        kind = np.dtype(predictor.label_type).name
        labels = stack.enter_context(rasters.written(job.labels, raster, 1, kind, nodata))
        rasters.write_colours(labels, predictor.palette)
        pages: Any = None
        if job.probabilities is not None:
            pages = stack.enter_context(
                rasters.written(job.probabilities, raster, classes, 'uint16', None)
            )
        for block in predictor.blocks(raster.size, raster.read):
            height, width = block.probabilities.shape[1:]
            there = raster.has_data(block.row, block.column, height, width)
            found = largest(block.probabilities, predictor.threshold)
            counts += np.bincount(found[there], minlength=classes)
            values: np.ndarray = np.where(there, found, nodata).astype(predictor.label_type)
            rasters.write_block(labels, values, block.row, block.column)
            if pages is not None:
                parts = np.rint(block.probabilities.cpu().numpy() * LARGEST * there)
                rasters.write_block(pages, parts.astype(np.uint16), block.row, block.column)
    return shares(counts)


def is_raster(source: Source) -> bool:
    """Whether a source is a file that GDAL reads in windows."""
    return source.path is not None and Path(source.path).suffix.lower() in rasters.SUFFIXES
