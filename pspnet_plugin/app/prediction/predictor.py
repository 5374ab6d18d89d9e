"""A model and what is asked of it: images in, predictions out, one after another."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import Any, Callable, NamedTuple, TypeVar, Union

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...errors import ImageError, PredictionError
from ...utils.text import first_line
from ..images.sources import ImageSource, sources_of
from .pipeline import Pipeline, PreparedImage, require_plain_average
from .results import Prediction
from .windows import Block, predict_in_windows

OnError = Callable[[ImageError], object]
Maps = tuple[np.ndarray, Union[np.ndarray, None]]  # the label map and the probabilities
Item = TypeVar('Item')
Result = TypeVar('Result')


class PredictOptions(NamedTuple):
    """What is asked of a model, as for :func:`predict`."""

    batch_size: int = 1
    probabilities: bool = False
    tta: bool = False
    window: int | None = None
    overlap: int | None = None  # pixels that neighbouring windows share at least; a quarter


def predict(
    model: nn.Module,
    images: Any,
    batch_size: int = 1,
    probabilities: bool = False,
    tta: bool = False,
    window: int | None = None,
    on_error: OnError | None = None,
) -> Iterator[Prediction]:
    """Predict label maps, and yield each as it comes, in the order of the images.

    Images go through the test pipeline of ``model.cfg`` and get the labels that mmseg's
    ``inference_model`` gives them. Files are read as the config's ``LoadImageFromFile`` says: by
    default with 8 bits and three channels, turned upright where EXIF says so.

    Args:
        model: from :func:`.models.init_model`, or from mmseg's ``init_model``.
        images: one or many, in any iterable, of: a path, a folder (with all below it), a glob, an
            address ``http(s)://``, a Pillow image, an array (H, W, C). As everywhere in mmseg, the
            channels of an array are **BGR**.
        batch_size: how many images of the same size at the network's input go through it at once.
        probabilities: give the probability of each class, too.
        tta: average the probabilities over the scales and flips of the config's ``tta_pipeline``.
        window: predict at the images' own size in overlapping windows of this side, in pixels.
        on_error: is called with the error of an image that cannot be read or predicted, and the
            others go on; without it the error is raised.

    Raises:
        ImageError: an image cannot be read or predicted; it names the image.
        PredictionError: an argument cannot be used, or names nothing.
    """
    predictor = Predictor(model, PredictOptions(batch_size, probabilities, tta, window))
    return predictor.predict(sources_of(images), on_error)


class Predictor:
    """A model with its pipeline and what is asked of it.

    With windows images keep their size: ``Resize`` and ``Pad`` in the test pipeline are left out.

    Raises:
        PredictionError: an option cannot be used, or excludes another.
    """

    def __init__(self, model: Any, options: PredictOptions) -> None:
        size, window, overlap = options.batch_size, options.window, options.overlap
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise PredictionError(f'batch_size={size!r} is no number of images from 1 on.')
        if options.tta:
            require_plain_average(model.cfg)
        if window is not None:
            if options.tta:
                raise PredictionError(
                    'Windows keep the size of an image, test-time augmentation changes it: choose '
                    'one.'
                )
            overlap = window // 4 if overlap is None else overlap
            if window < 1 or not 0 <= overlap <= window // 2:
                raise PredictionError(
                    f'Windows of {window} pixels cannot share {overlap}: at most half of them, and '
                    'no less than 0.'
                )
        self.model, self.options = model, options
        self.window, self.overlap = window or 0, overlap or 0
        self.classes = list(model.dataset_meta['classes'])
        self.palette = [list(colour) for colour in model.dataset_meta['palette']]
        self.label_type = np.uint8 if len(self.classes) < 256 else np.uint16  # the last is no class
        self.nodata = np.iinfo(self.label_type).max  # the label of pixels without data
        self.pipeline = Pipeline(model, options.tta)
        if window and self.pipeline.changes_pixels:
            raise PredictionError(
                'Windows take pixels as they were read, and the test pipeline changes them '
                f'({", ".join(self.pipeline.changes_pixels)}): normalize in the data_preprocessor, '
                'or predict without windows.'
            )
        self.batch_size = 1 if options.tta or window else size

    def predict(
        self, sources: Iterable[ImageSource], on_error: OnError | None = None
    ) -> Iterator[Prediction]:
        """Predict one source after another; the next images are read meanwhile.

        A batch has its images among as many sources as it may hold, counted from the first: which
        images are predicted together does not depend on which of them can be read.
        """
        failed = on_error or raise_error
        futures = ahead(self._prepare, sources, self.batch_size + 1)
        while group := [future.result() for future in islice(futures, self.batch_size)]:
            for shape, images in groupby(group, lambda image: getattr(image, 'shape', 'error')):
                if shape == 'error':
                    for error in images:
                        failed(error)
                else:
                    yield from self._predicted(list(images), failed)

    def _prepare(self, source: ImageSource) -> Any:
        """The PreparedImage of a source, or the error that takes its place."""
        try:
            if not self.window:
                return self.pipeline(source)
            results, has_data = self.pipeline.read(source)
            pixels = results['img']
            return PreparedImage(source, pixels, [], [], pixels.shape, has_data)
        except ImageError as error:
            return error
        except Exception as error:
            return failure(source, 'cannot be read', error)

    def _predicted(self, images: list[PreparedImage], failed: OnError) -> Iterator[Prediction]:
        """Predict images of one size; where that fails, each by itself."""
        try:
            predictions = self._predict_batch(images)
        except Exception as error:  # whatever a network raises, the other images go on
            if len(images) > 1:
                for image in images:
                    yield from self._predicted([image], failed)
                return
            failed(failure(images[0].source, 'the network fails on it', error))
        else:
            yield from predictions

    @torch.no_grad()
    def _predict_batch(self, images: list[PreparedImage]) -> list[Prediction]:
        """Predict images whose inputs have the same size."""
        if self.window:
            found = [self._in_windows(image.pixels) for image in images]
        elif self.options.tta:
            found = [self._averaged(image) for image in images]
        else:
            found = self._together(images)
        for image, (label_map, probabilities) in zip(images, found):
            if image.has_data is not None:
                label_map[~image.has_data] = self.nodata
                if probabilities is not None:
                    probabilities[:, ~image.has_data] = 0
        return [
            Prediction(*maps, self.classes, self.palette, image.pixels, image.source)
            for image, maps in zip(images, found)
        ]

    def _together(self, images: list[PreparedImage]) -> list[Maps]:
        inputs = [image.inputs[0] for image in images]
        data = {'inputs': inputs, 'data_samples': [image.samples[0] for image in images]}
        with full_logits(self.model) if self.options.probabilities else contextlib.nullcontext():
            results = self.model.test_step(data)
        return [
            (
                # Of a single channel they are of the type of the logits, such as bfloat16.
                sample.pred_sem_seg.data[0].long().cpu().numpy().astype(self.label_type),
                class_probabilities(sample).cpu().numpy() if self.options.probabilities else None,
            )
            for sample in results
        ]

    def _averaged(self, image: PreparedImage) -> Maps:
        """The mean over the views of an image, which are predicted one at a time."""
        views = map(self._probabilities, image.inputs, image.samples)
        mean = sum(views, torch.zeros(())) / len(image.inputs)
        return self.labels_of(mean), mean.cpu().numpy() if self.options.probabilities else None

    def _in_windows(self, pixels: np.ndarray) -> Maps:
        size = pixels.shape[0], pixels.shape[1]
        label_map: np.ndarray = np.empty(size, self.label_type)
        shape = len(self.classes), *size
        probabilities = np.empty(shape, np.float32) if self.options.probabilities else None

        def cut(row: int, column: int, height: int, width: int) -> np.ndarray:
            return pixels[row : row + height, column : column + width]

        for block in self.blocks(size, cut):
            row, column, height, width = block.area
            area = slice(row, row + height), slice(column, column + width)
            label_map[area] = self.labels_of(block.probabilities)
            if probabilities is not None:
                probabilities[(slice(None), *area)] = block.probabilities.cpu().numpy()
        return label_map, probabilities

    def blocks(
        self, size: tuple[int, int], pixels_of: Callable[[int, int, int, int], np.ndarray]
    ) -> Iterator[Block]:
        """The result for an image of ``size``, in windows.

        Args:
            pixels_of: gives those of (row, column, height, width), (h, w) or (h, w, C).
        """

        def probabilities_of(*area: int) -> Tensor:
            pixels = pixels_of(*area)
            planes = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
            if planes.dtype == np.uint16:  # torch before 2.3 has no such type
                planes = planes.astype(np.int32)
            size = tuple(pixels.shape[:2])
            sample = SegDataSample(metainfo={'img_shape': size, 'ori_shape': size})
            return self._probabilities(torch.from_numpy(planes.copy()), sample)

        return predict_in_windows(size, self.window, self.overlap, probabilities_of)

    @torch.no_grad()
    def _probabilities(self, inputs: Tensor, sample: SegDataSample) -> Tensor:
        """Of one input, (C, H, W)."""
        data = {'inputs': [inputs], 'data_samples': [sample]}
        with full_logits(self.model):
            return class_probabilities(self.model.test_step(data)[0])

    def labels_of(self, probabilities: Tensor) -> np.ndarray:
        """The label of each pixel, (H, W), from the probabilities, (C, H, W)."""
        if self.model.out_channels == 1:  # which tells the second of two classes
            labels = probabilities[1] > self.model.decode_head.threshold
        else:
            labels = probabilities.argmax(0)
        return labels.cpu().numpy().astype(self.label_type)


def failure(source: ImageSource, what: str, error: Exception) -> ImageError:
    """The ImageError of a source for which another error was raised."""
    reason = f'{type(error).__name__}: {first_line(error)}'
    image_error = ImageError(source.name, f'{what} ({reason}).')
    image_error.__cause__ = error
    return image_error


def raise_error(error: ImageError) -> None:
    """What is done with an error where the caller does nothing with it."""
    raise error


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
