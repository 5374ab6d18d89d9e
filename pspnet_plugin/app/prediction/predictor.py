"""A model and what is asked of it: sources in, predictions out, one after another."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, NamedTuple, TypeVar

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...errors import ImageError, PredictionError
from ...speed.examples import input_channels
from ...utils.text import first_line
from ..images.sources import ImageSource
from .pipeline import Pipeline, PreparedImage
from .result import PALETTE_SIZE, Prediction
from .windows import Block, check_windows, predict_in_windows

OnError = Callable[[ImageError], object]
Item = TypeVar('Item')
Result = TypeVar('Result')


class PredictOptions(NamedTuple):
    """What is asked of a model.

    Attributes:
        batch_size, probabilities, tta, window: as for :func:`.api.predict`.
        overlap: how many pixels neighbouring windows share at least; None for a quarter of one.
    """

    batch_size: int = 1
    probabilities: bool = False
    tta: bool = False
    window: int | None = None
    overlap: int | None = None


class Predictor:
    """A model with its pipeline and what is asked of it."""

    def __init__(self, model: nn.Module, options: PredictOptions) -> None:
        size = options.batch_size
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise PredictionError(f'batch_size={size!r} is no number of images from 1 on.')
        owner: Any = model
        if options.tta:
            require_plain_average(owner.cfg)
        self.model = owner
        self.classes = list(owner.dataset_meta['classes'])
        self.palette = [list(colour) for colour in owner.dataset_meta['palette']]
        self.label_type = np.uint8 if len(self.classes) <= PALETTE_SIZE else np.uint16
        self.pipeline = Pipeline(owner.cfg, input_channels(model), options.tta)
        self.options = options
        self.batch_size = 1 if options.tta or options.window else size

    def predict(
        self, sources: Iterable[ImageSource], on_error: OnError | None = None
    ) -> Iterator[Prediction]:
        """Predict one source after another; the next images are read meanwhile.

        A batch has its images among as many sources as it may hold, counted from the first: which
        images are predicted together does not depend on which of them can be read.
        """
        batch: list[PreparedImage] = []
        for count, future in enumerate(ahead(self.prepare, sources, self.batch_size + 1), 1):
            try:
                image = future.result()
            except ImageError as error:
                yield from self._flush(batch, on_error)
                report(error, on_error)
            else:
                if batch and image.inputs[0].shape != batch[0].inputs[0].shape:
                    yield from self._flush(batch, on_error)
                batch.append(image)
            if count % self.batch_size == 0:
                yield from self._flush(batch, on_error)
        yield from self._flush(batch, on_error)

    def prepare(self, source: ImageSource) -> PreparedImage:
        """Read one image, and do to it what the network needs."""
        return self.pipeline(source)

    def _flush(self, batch: list[PreparedImage], on_error: OnError | None) -> Iterator[Prediction]:
        """Predict a batch and empty it; where that fails, each image by itself."""
        images = list(batch)
        batch.clear()
        if not images:
            return
        try:
            predictions = self.predict_batch(images)
        except RuntimeError as error:
            if len(images) > 1:
                for image in images:
                    yield from self._flush([image], on_error)
                return
            name = images[0].source.name
            failed = ImageError(name, f'the network fails on it ({first_line(error)}).')
            failed.__cause__ = error
            report(failed, on_error)
            return
        yield from predictions

    @torch.no_grad()
    def predict_batch(self, images: list[PreparedImage]) -> list[Prediction]:
        """Predict images whose inputs have the same size."""
        if self.options.tta:
            return [self._averaged(image) for image in images]
        inputs = [image.inputs[0] for image in images]
        samples = [image.samples[0] for image in images]
        with full_logits(self.model) if self.options.probabilities else contextlib.nullcontext():
            results = self.model.test_step({'inputs': inputs, 'data_samples': samples})
        return [
            self.prediction_of(
                image,
                sample.pred_sem_seg.data[0].cpu().numpy().astype(self.label_type),
                class_probabilities(sample).cpu().numpy() if self.options.probabilities else None,
            )
            for image, sample in zip(images, results)
        ]

    def _averaged(self, image: PreparedImage) -> Prediction:
        """Predict the mean over the views of an image, one view at a time."""
        total: Any = 0
        with full_logits(self.model):
            for view, sample in zip(image.inputs, image.samples):
                data = {'inputs': [view], 'data_samples': [sample]}
                total = total + class_probabilities(self.model.test_step(data)[0])
        mean = total / len(image.inputs)
        probabilities = mean.cpu().numpy() if self.options.probabilities else None
        return self.prediction_of(image, self.labels_of(mean), probabilities)

    def labels_of(self, probabilities: Tensor) -> np.ndarray:
        """The label of each pixel, (H, W), from the probabilities, (C, H, W)."""
        if self.model.out_channels == 1:  # which tells the second of two classes
            labels = probabilities[1] > self.model.decode_head.threshold
        else:
            labels = probabilities.argmax(0)
        return labels.cpu().numpy().astype(self.label_type)

    def prediction_of(
        self, image: PreparedImage, label_map: np.ndarray, probabilities: np.ndarray | None
    ) -> Prediction:
        """What was predicted for ``image``, with what belongs to it."""
        return Prediction(
            label_map, probabilities, self.classes, self.palette, image.pixels, image.source
        )


class WindowPredictor(Predictor):
    """Predicts images at their own size, without the ``Resize`` of the config's test pipeline."""

    def __init__(self, model: nn.Module, options: PredictOptions) -> None:
        super().__init__(model, options)
        assert options.window is not None
        self.window = options.window
        self.overlap = self.window // 4 if options.overlap is None else options.overlap
        check_windows(self.window, self.overlap)

    def prepare(self, source: ImageSource) -> PreparedImage:
        """Read one image."""
        return PreparedImage(source, self.pipeline.read(source)['img'], [], [])

    def predict_batch(self, images: list[PreparedImage]) -> list[Prediction]:
        """Predict images one after another."""
        return [self._whole(image) for image in images]

    def _whole(self, image: PreparedImage) -> Prediction:
        size = image.pixels.shape[0], image.pixels.shape[1]
        label_map: np.ndarray = np.empty(size, self.label_type)
        shape = len(self.classes), *size
        probabilities = np.empty(shape, np.float32) if self.options.probabilities else None

        def cut(row: int, column: int, height: int, width: int) -> np.ndarray:
            return image.pixels[row : row + height, column : column + width]

        for block in self.blocks(size, cut):
            row, column, height, width = block.area
            area = slice(row, row + height), slice(column, column + width)
            label_map[area] = self.labels_of(block.probabilities)
            if probabilities is not None:
                probabilities[(slice(None), *area)] = block.probabilities.cpu().numpy()
        return self.prediction_of(image, label_map, probabilities)

    @torch.no_grad()
    def blocks(
        self, size: tuple[int, int], pixels_of: Callable[[int, int, int, int], np.ndarray]
    ) -> Iterator[Block]:
        """The result for an image of ``size``, in parts.

        Args:
            pixels_of: gives those of (row, column, height, width), (h, w) or (h, w, C).
        """
        with full_logits(self.model):
            yield from predict_in_windows(
                size, self.window, self.overlap, lambda *area: self._of_window(pixels_of(*area))
            )

    def _of_window(self, pixels: np.ndarray) -> Tensor:
        planes = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
        if planes.dtype == np.uint16:  # torch before 2.3 has no such type
            planes = planes.astype(np.int32)
        size = tuple(pixels.shape[:2])
        sample = SegDataSample(metainfo={'img_shape': size, 'ori_shape': size})
        data = {'inputs': [torch.from_numpy(planes.copy())], 'data_samples': [sample]}
        return class_probabilities(self.model.test_step(data)[0])


def predictor_for(model: nn.Module, options: PredictOptions) -> Predictor:
    """What predicts as the options say; a PredictionError where they exclude each other."""
    if options.window is None:
        return Predictor(model, options)
    if options.tta:
        raise PredictionError(
            'Windows keep the size of an image, test-time augmentation changes it: choose one.'
        )
    return WindowPredictor(model, options)


def require_plain_average(cfg: Any) -> None:
    """Raise PredictionError for a ``tta_model`` that merges in a way of its own."""
    kind = (cfg.get('tta_model') or {}).get('type', 'SegTTAModel')
    meant = MODELS.get(kind) if isinstance(kind, str) else kind
    if getattr(meant, 'merge_preds', None) is not SegTTAModel.merge_preds:
        raise PredictionError(
            f'The tta_model {kind} merges predictions in a way of its own. Test it with the test '
            'tool and --tta, or predict with SegTTAModel, which averages probabilities.'
        )


def report(error: ImageError, on_error: OnError | None) -> None:
    """Hand an error over, or raise it."""
    if on_error is None:
        raise error
    on_error(error)


@contextlib.contextmanager
def full_logits(model: Any) -> Iterator[None]:
    """Within this context a model predicts full-size logits with its label maps."""
    before = model.test_cfg
    model.test_cfg = ConfigDict({**(before or {}), 'seg_logits': True})
    try:
        yield
    finally:
        model.test_cfg = before


def class_probabilities(sample: SegDataSample) -> Tensor:
    """(C, H, W) float32 of a predicted sample, whose logits are overwritten.

    A single channel tells the second of two classes.
    """
    logits = sample.seg_logits.data.float()
    if len(logits) == 1:  # mmseg has applied the sigmoid already
        return torch.cat([1 - logits, logits])
    # The softmax in place: of a large window this is the largest map of all.
    logits -= logits.amax(0)
    logits.exp_()
    return logits.div_(logits.sum(0))


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Future[Result]]:
    """Call ``function`` on each item in a thread that is up to ``count`` items ahead."""
    pool = ThreadPoolExecutor(1)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
