"""Images and videos into a folder of results, from where an earlier run stopped."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from ...errors import ImageError, PredictionError
from ..images.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Source, sources_of
from .api import predictor_for
from .large import WindowPredictor, is_raster, predict_raster
from .outputs import SHARES, Job, jobs_of, shares, shares_of, write_prediction, write_table, writing
from .predictor import Predictor
from .ranks import Ranks, connected
from .result import Prediction
from .video import predict_video

RECORD = 'prediction.json'
WAITING = 1  # predictions that wait to be written; those of many classes are large


class Options(NamedTuple):
    """What is asked of :func:`predict_folder` beyond the images.

    Attributes:
        batch_size, tta, probabilities: as for :func:`.api.predict`; probabilities are written
            as TIFF files of one 16-bit page for each class.
        opacity: of the colours over the images, 0 to 1.
        window, overlap: predict images at their own size in windows, see
            :class:`.large.WindowPredictor`. Rasters such as GeoTIFF are read and written in windows
            and keep their georeference.
    """

    batch_size: int = 1
    tta: bool = False
    probabilities: bool = False
    opacity: float = 0.5
    window: int | None = None
    overlap: int | None = None


class Summary(NamedTuple):
    """What became of the images, in the first process; the others have empty ones.

    Attributes:
        predicted: how many have their files, those from earlier runs included.
        failures: what is wrong with each of the others, in their order.
    """

    predicted: int = 0
    failures: tuple[ImageError, ...] = ()


Advance = Callable[[int, int], object]


def predict_folder(
    model: nn.Module,
    inputs: Any,
    out: Path,
    options: Options = Options(),  # noqa: B008  immutable
    advance: Advance = lambda done, total: None,
) -> Summary:
    """Predict images and videos and write what is seen in them into the folder ``out``.

    ``labels/`` gets a label map for each image, ``overlays/`` the classes over the images and
    videos, ``shares.csv`` the share of each class. A file is whole or not there; images that have
    all their files are not predicted again. Processes of ``torchrun`` divide the images.

    Args:
        model: from :func:`.model.init_model`.
        inputs: as for :func:`.api.predict`, but without pixels; also videos.
        advance: is called with the number of images that are done, and of all.

    Raises:
        PredictionError: nothing is named, ``out`` has predictions of another model or with other
            options, or cannot be written.
    """
    predictor = predictor_for(
        model,
        options.batch_size,
        options.probabilities,
        options.tta,
        options.window,
        options.overlap,
    )
    sources = listed(inputs, out)
    windows = isinstance(predictor, WindowPredictor)
    jobs = jobs_of(sources, out, options.probabilities, lambda s: windows and is_raster(s))
    with connected() as ranks:
        ranks.first(lambda: claim(out, record_of(model, options)))
        mine = _Share(predictor, options, advance).work(jobs[ranks.rank :: ranks.world])
        return _joined(ranks, jobs, ranks.gather(mine), out, predictor.classes)


def listed(inputs: Any, out: Path) -> list[Source]:
    """The sources in ``inputs``, each once, without what lies in ``out``."""
    found = {source.name: source for source in sources_of(inputs, IMAGE_SUFFIXES | VIDEO_SUFFIXES)}
    results = out.resolve()
    kept = [s for s in found.values() if results not in Path(s.name).resolve().parents]
    if not kept:
        raise PredictionError(f'{inputs} names no image outside of {out}.')
    return kept


def record_of(model: Any, options: Options) -> dict[str, Any]:
    """What the results depend on, and the classes behind the values of the label maps."""
    parts = {name: model.cfg.get(name) for name in ('model', 'test_pipeline', 'tta_pipeline')}
    text = json.dumps(parts, sort_keys=True, default=str)
    return {
        'weights': model.weights_sha256,
        'config': hashlib.sha256(text.encode()).hexdigest(),
        'dtype': model.computes_in,
        'tta': options.tta,
        'opacity': options.opacity,
        'window': options.window,
        'overlap': options.overlap,
        **model.dataset_meta,
    }


def claim(out: Path, record: dict[str, Any]) -> None:
    """Write ``record`` into ``out``, or find it there.

    Raises:
        PredictionError: there is another one.
    """
    path = out / RECORD
    if not path.is_file():
        with writing(path) as file:
            file.write(json.dumps(record, indent=1).encode())
        return
    try:
        there = json.loads(path.read_text(encoding='utf-8'))
        differs = [key for key, value in record.items() if there.get(key) != value]
    except (ValueError, AttributeError):
        differs = ['content']
    if differs:
        raise PredictionError(
            f'{out} holds predictions with another {" and ".join(differs)} ({path}). Name another '
            'folder, or remove this one.'
        )


class _Share:
    """The jobs of one process."""

    def __init__(self, predictor: Predictor, options: Options, advance: Advance) -> None:
        self.predictor, self.options, self.advance = predictor, options, advance
        self.rows: dict[str, list[str]] = {}  # shares by the name of the source
        self.failures: dict[str, str] = {}  # reasons
        self.total = 0

    def work(self, jobs: Sequence[Job]) -> tuple[dict[str, list[str]], dict[str, str]]:
        self.total = len(jobs)
        images = [job for job in jobs if not job.source.is_video and job.overlay is not None]
        # A batch is predicted as a whole or not at all: alone, an image might be rounded otherwise.
        size = self.predictor.batch_size
        batches = [images[first : first + size] for first in range(0, len(images), size)]
        self._images([job for batch in batches if not self._are_done(batch) for job in batch])
        for job in jobs:
            if job.source.is_video and not self._are_done([job]):
                self._video(job)
            elif job.overlay is None and not self._are_done([job]):
                self._raster(job)
        return self.rows, self.failures

    def _are_done(self, jobs: Sequence[Job]) -> bool:
        if not all(job.is_done() for job in jobs):
            return False
        for job in jobs:
            self._done(job, shares_of(job, len(self.predictor.classes)))
        return True

    def _images(self, jobs: Sequence[Job]) -> None:
        by_name = {job.source.name: job for job in jobs}
        sources = [job.source for job in jobs]
        waiting: deque[tuple[Job, Prediction, Future]] = deque()
        with ThreadPoolExecutor(1) as writer:
            for prediction in self.predictor.predict(sources, self._failed):
                job = by_name[prediction.source.name]
                written = writer.submit(write_prediction, job, prediction, self.options.opacity)
                waiting.append((job, prediction, written))
                if len(waiting) > WAITING:
                    self._written(*waiting.popleft())
            while waiting:
                self._written(*waiting.popleft())

    def _written(self, job: Job, prediction: Prediction, future: Future) -> None:
        future.result()
        self._done(job, shares(prediction.counts))

    def _video(self, job: Job) -> None:
        try:
            predict_video(self.predictor, job, self.options.opacity)
        except ImageError as error:
            self._failed(ImageError(job.source.name, error.reason))
        else:
            self._done(job, shares_of(job, len(self.predictor.classes)))

    def _raster(self, job: Job) -> None:
        assert isinstance(self.predictor, WindowPredictor)
        try:
            row = predict_raster(self.predictor, job)
        except ImageError as error:
            self._failed(error)
        else:
            self._done(job, row)

    def _done(self, job: Job, row: list[str]) -> None:
        self.rows[job.source.name] = row
        self._advance()

    def _failed(self, error: ImageError) -> None:
        self.failures[error.name] = error.reason
        self._advance()

    def _advance(self) -> None:
        self.advance(len(self.rows) + len(self.failures), self.total)


def _joined(
    ranks: Ranks, jobs: Sequence[Job], parts: Sequence[Any], out: Path, classes: Sequence[str]
) -> Summary:
    """Join what the processes report, and write the table; in the first process alone."""
    if ranks.rank:
        return Summary()
    rows: dict[str, list[str]] = {}
    failures: dict[str, str] = {}
    for part_rows, part_failures in parts:
        rows.update(part_rows)
        failures.update(part_failures)
    names = [job.source.name for job in jobs]
    table = [(name, rows[name]) for name in names if name in rows]
    write_table(out / SHARES, 'image', classes, table)
    failed = [ImageError(name, failures[name]) for name in names if name in failures]
    return Summary(len(table), tuple(failed))
