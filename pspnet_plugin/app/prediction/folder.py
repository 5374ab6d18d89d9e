"""Images and videos into a folder of results, from where an earlier run stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ...errors import ImageError, PredictionError
from ...utils.distributed import connected
from ..images.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, sources_of
from .outputs import (
    Job,
    claim,
    class_shares,
    jobs_of,
    write_prediction,
    write_table,
    written_shares,
)
from .predictor import PredictOptions, Predictor, WindowPredictor, ahead, predictor_for
from .rasters import predict_raster
from .result import Prediction
from .video import predict_video

WAITING = 1  # predictions that wait to be written; those of many classes are large
Advance = Callable[[int, int], object]


class Summary(NamedTuple):
    """What became of the images, in the first process; the others have empty ones.

    Attributes:
        predicted: how many have their files, those from earlier runs included.
        failures: what is wrong with each of the others, in their order.
    """

    predicted: int = 0
    failures: tuple[ImageError, ...] = ()


def predict_folder(
    model: nn.Module,
    inputs: Any,
    out: Path,
    options: PredictOptions = PredictOptions(),  # noqa: B008  immutable
    opacity: float = 0.5,
    advance: Advance = lambda done, total: None,
) -> Summary:
    """Predict images and videos and write what is seen in them into the folder ``out``.

    ``labels/`` gets a label map for each image, ``overlays/`` the classes over the images and
    videos, ``shares.csv`` the share of each class. A file is whole or not there; images that have
    all their files are not predicted again. Processes of ``torchrun`` or ``srun`` divide them.

    Args:
        model: from :func:`.models.init_model`.
        inputs: as for :func:`.api.predict`, but without pixels; also videos.
        options: with probabilities, TIFF files of one 16-bit page for each class are written; with
            windows, rasters such as GeoTIFF are read and written in these and keep their
            georeference.
        opacity: of the colours over the images, 0 to 1.
        advance: is called with the number of images that are done, and of all.

    Raises:
        PredictionError: nothing is named, ``out`` has predictions of another model or with other
            options, or cannot be written.
    """
    predictor = predictor_for(model, options)
    record = record_of(model, options, opacity)
    sources = sources_of(inputs, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    jobs = jobs_of(sources, out, options.probabilities, rasters=options.window is not None)
    if not jobs:
        raise PredictionError(f'{inputs} names no image outside of {out}.')
    try:
        with connected() as processes:
            processes.first(lambda: claim(out, record))
            worker = Worker(predictor, opacity, advance)
            worker.run(jobs[processes.rank :: processes.world_size])
            gathered = processes.gather((worker.rows, worker.failures))
        return joined(gathered, jobs, out, predictor.classes) if gathered else Summary()
    except OSError as error:
        reason = error.strerror or error.__cause__ or error.args[0]  # GDAL's is the cause
        raise PredictionError(
            f'{error.filename or out} cannot be written: {reason}. What was written before is '
            'whole, and the same command goes on from there.'
        ) from error


def record_of(model: Any, options: PredictOptions, opacity: float) -> dict[str, Any]:
    """What the results depend on, and the classes behind the values of the label maps."""
    parts = {name: model.cfg.get(name) for name in ('model', 'test_pipeline', 'tta_pipeline')}
    text = json.dumps(parts, sort_keys=True, default=str)
    return {
        'weights': model.weights_sha256,
        'config': hashlib.sha256(text.encode()).hexdigest(),
        'dtype': model.computes_in,
        'tta': options.tta,
        'opacity': opacity,
        'window': options.window,
        'overlap': options.overlap,
        **model.dataset_meta,
    }


class Worker:
    """Does the jobs of one process.

    Attributes:
        rows: the shares of the classes in each image, by its name.
        failures: what is wrong with each of the others.
    """

    def __init__(self, predictor: Predictor, opacity: float, advance: Advance) -> None:
        self.predictor, self.opacity, self.advance = predictor, opacity, advance
        self.rows: dict[str, list[str]] = {}
        self.failures: dict[str, str] = {}
        self.total = 0

    def run(self, jobs: Sequence[Job]) -> None:
        """Do what of the jobs is not done."""
        self.total = len(jobs)
        images = [job for job in jobs if job.is_image]
        # A batch is predicted as a whole or not at all: alone, an image might be rounded otherwise.
        size = self.predictor.batch_size
        groups = [images[first : first + size] for first in range(0, len(images), size)]
        groups += [[job] for job in jobs if not job.is_image]
        left = [job for group in groups if not self._are_done(group) for job in group]
        self._predict_images([job for job in left if job.is_image])
        for job in left:
            if not job.is_image:
                self._predict_other(job)

    def _are_done(self, jobs: Sequence[Job]) -> bool:
        if not all(job.is_done() for job in jobs):
            return False
        for job in jobs:
            self._done(job, written_shares(job, len(self.predictor.classes)))
        return True

    def _predict_images(self, jobs: Sequence[Job]) -> None:
        by_name = {job.source.name: job for job in jobs}

        def write(prediction: Prediction) -> tuple[Job, list[str]]:
            job = by_name[prediction.source.name]
            write_prediction(job, prediction, self.opacity)
            return job, class_shares(prediction.counts)

        predictions = self.predictor.predict([job.source for job in jobs], self._failed)
        for written in ahead(write, predictions, WAITING):
            self._done(*written.result())

    def _predict_other(self, job: Job) -> None:
        """Predict a video or a raster."""
        try:
            if job.source.is_video:
                predict_video(self.predictor, job, self.opacity)
            else:
                assert isinstance(self.predictor, WindowPredictor)
                predict_raster(self.predictor, job)
        except ImageError as error:
            self._failed(ImageError(job.source.name, error.reason))
        else:
            self._done(job, written_shares(job, len(self.predictor.classes)))

    def _done(self, job: Job, row: list[str]) -> None:
        self.rows[job.source.name] = row
        self.advance(len(self.rows) + len(self.failures), self.total)

    def _failed(self, error: ImageError) -> None:
        self.failures[error.name] = error.reason
        self.advance(len(self.rows) + len(self.failures), self.total)


def joined(gathered: list[Any], jobs: Sequence[Job], out: Path, classes: list[str]) -> Summary:
    """Write the table of all images, from the rows and failures of each process."""
    rows = {name: row for part, _ in gathered for name, row in part.items()}
    failures = {name: reason for _, part in gathered for name, reason in part.items()}
    names = [job.source.name for job in jobs]
    table = [(name, rows[name]) for name in names if name in rows]
    write_table(out / 'shares.csv', 'image', classes, table)
    failed = [ImageError(name, failures[name]) for name in names if name in failures]
    return Summary(len(table), tuple(failed))
