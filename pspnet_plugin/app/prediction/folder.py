"""Images and videos into a folder of results, from where an earlier run stopped."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import gather_object
from PIL import Image
from torch import nn

from ...errors import ImageError, PredictionError
from ...utils.distributed import connected, in_first_process
from ...utils.files import write_whole
from ..images.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ImageSource, sources_of
from .large import count_labels, predict_raster, predict_video
from .predictor import PredictOptions, Predictor, ahead
from .results import Prediction, class_shares, write_prediction, write_table

WAITING = 1  # predictions that wait to be written; those of many classes are large
# What is written for each kind of source, by folder.
SUFFIXES = {
    'image': {'labels': '.png', 'overlays': '.jpg', 'probabilities': '.tif'},
    'raster': {'labels': '.tif', 'probabilities': '.tif'},
    'video': {'overlays': '.mp4', 'frames': '.csv'},
}


class Summary(NamedTuple):
    """What became of the images, in the first process; the others have empty ones."""

    predicted: int = 0  # how many have their files, those from earlier runs included
    failures: tuple[ImageError, ...] = ()  # what is wrong with the others, in their order


class Job(NamedTuple):
    """A source and its files, by the folder that they lie in."""

    source: ImageSource
    kind: str
    files: dict[str, Path]

    def is_done(self) -> bool:
        """Whether every file is there, and none older than the source where that is a file."""
        source = self.source.name
        changed = os.stat(source).st_mtime if os.path.isfile(source) else 0
        paths = self.files.values()
        return all(path.is_file() and path.stat().st_mtime >= changed for path in paths)


def predict_folder(
    model: nn.Module,
    inputs: Any,
    out: Path,
    options: PredictOptions = PredictOptions(),  # noqa: B008  immutable
    opacity: float = 0.5,
    advance: Callable[..., object] = lambda **counts: None,
) -> Summary:
    """Predict images and videos and write what is seen in them into the folder ``out``.

    ``labels/`` gets a label map for each image, ``overlays/`` the classes over the images and
    videos, ``shares.csv`` the share of each class. A file is whole or not there; images that have
    all their files are not predicted again. Processes of ``torchrun`` or ``srun`` divide them.

    Args:
        model: from :func:`.models.init_model`.
        inputs: as for :func:`.predict`, but without pixels; also videos.
        options: with probabilities, TIFF files of one 16-bit page for each class are written; with
            windows, rasters such as GeoTIFF are read and written in these and keep their
            georeference.
        opacity: of the colours over the images, 0 to 1.
        advance: is called with the numbers of images ``completed`` and in ``total``.

    Raises:
        PredictionError: nothing is named, ``out`` has predictions of another model or with other
            options, or cannot be written.
    """
    predictor = Predictor(model, options)
    jobs = jobs_of(sources_of(inputs, IMAGE_SUFFIXES | VIDEO_SUFFIXES), out, options)
    if not jobs:
        raise PredictionError(f'{inputs} names no image outside of {out}.')
    try:
        with connected() as (rank, processes):
            in_first_process(lambda: claim(out, record_of(predictor, opacity)))
            found = predict_jobs(predictor, jobs[rank::processes], opacity, advance)
            parts = gather_object(found)  # None but in the first process
        return joined(parts, jobs, out, predictor.classes) if parts else Summary()
    except OSError as error:
        reason = error.strerror or error.__cause__ or error.args[0]  # GDAL's is the cause
        raise PredictionError(
            f'{error.filename or out} cannot be written: {reason}. What was written before is '
            'whole, and the same command goes on from there.'
        ) from error


def jobs_of(sources: Iterable[ImageSource], out: Path, options: PredictOptions) -> list[Job]:
    """A job for each source outside of ``out``, below which folders keep their tree."""
    results = out.resolve()
    once = {source.name: source for source in sources}.values()
    sources = [s for s in once if results not in Path(s.name).resolve().parents]
    jobs = []
    for source, name in zip(sources, output_names(sources)):
        in_windows = options.window is not None and source.is_raster
        kind = 'video' if source.is_video else 'raster' if in_windows else 'image'
        files = {
            folder: out / folder / f'{name}{suffix}'
            for folder, suffix in SUFFIXES[kind].items()
            if folder != 'probabilities' or options.probabilities
        }
        jobs.append(Job(source, kind, files))
    return jobs


def output_names(sources: Sequence[ImageSource]) -> list[str]:
    """The relative path of each source without its suffix, or with it where two would be alike."""
    paths = [source.relative_path for source in sources]
    stems = [path.with_suffix('').as_posix() for path in paths]
    often = Counter(stems)
    names = [stem if often[stem] == 1 else path.as_posix() for stem, path in zip(stems, paths)]
    seen: dict[str, ImageSource] = {}
    for name, source in zip(names, sources):
        if name in seen:
            raise PredictionError(
                f'{seen[name].name} and {source.name} would both be written as {name}. Give the '
                'folder that both lie in, or predict them into two folders.'
            )
        seen[name] = source
    return names


def record_of(predictor: Predictor, opacity: float) -> dict[str, Any]:
    """What the results depend on, and the classes behind the values of the label maps."""
    model, options = predictor.model, predictor.options
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


def claim(out: Path, record: dict[str, Any]) -> None:
    """Write ``record`` into ``out``, or find it there; another one is a PredictionError."""
    path = out / 'prediction.json'
    if not path.is_file():
        with write_whole(path, 'wb') as file:
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


def predict_jobs(
    predictor: Predictor, jobs: Sequence[Job], opacity: float, advance: Callable[..., object]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Do what of the jobs is not done.

    Returns:
        The shares of the classes in each image, and what is wrong with each of the others, by name.
    """
    rows: dict[str, list[str]] = {}
    failures: dict[str, str] = {}

    def done(job: Job, row: list[str]) -> None:
        rows[job.source.name] = row
        advance(completed=len(rows) + len(failures), total=len(jobs))

    def failed(error: ImageError) -> None:
        failures[error.name] = error.reason
        advance(completed=len(rows) + len(failures), total=len(jobs))

    def write(prediction: Prediction) -> tuple[Job, list[str]]:
        job = by_name[prediction.source.name]
        write_prediction(job.files, prediction, opacity)
        return job, class_shares(prediction.counts)

    images = [job for job in jobs if job.kind == 'image']
    # A batch is predicted as a whole or not at all: alone, an image might be rounded otherwise.
    size = predictor.batch_size
    groups = [images[first : first + size] for first in range(0, len(images), size)]
    by_name: dict[str, Job] = {}  # the images that are left
    for group in groups:
        if all(job.is_done() for job in group):
            for job in group:
                done(job, written_shares(job, predictor.classes))
        else:
            by_name.update((job.source.name, job) for job in group)
    predictions = predictor.predict([job.source for job in by_name.values()], failed)
    for written in ahead(write, predictions, WAITING):
        done(*written.result())
    for job in jobs:
        try:
            if job.kind == 'video' and not job.is_done():
                predict_video(predictor, job.source.name, job.files, opacity)
            elif job.kind == 'raster' and not job.is_done():
                predict_raster(predictor, job.source.name, job.files)
            if job.kind != 'image':
                done(job, written_shares(job, predictor.classes))
        except ImageError as error:
            failed(ImageError(job.source.name, error.reason))
    return rows, failures


def written_shares(job: Job, classes: Sequence[str]) -> list[str]:
    """The shares of a job whose files are written; of a video, the mean over its frames."""
    if job.kind == 'video':
        with open(job.files['frames'], newline='', encoding='utf-8') as file:
            rows = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=float)
        return [f'{share:.6f}' for share in rows.mean(0)]
    if job.kind == 'raster':
        return class_shares(count_labels(job.files['labels'], len(classes)))
    with Image.open(job.files['labels']) as picture:
        return class_shares(np.bincount(np.asarray(picture).ravel(), minlength=len(classes)))


def joined(
    parts: Sequence[tuple[dict, dict]], jobs: Sequence[Job], out: Path, classes: list[str]
) -> Summary:
    """Write the table of all images, from the rows and failures of each process."""
    rows: Mapping[str, Any]
    rows, failures = (ChainMap(*found) for found in zip(*parts))
    names = [job.source.name for job in jobs]
    table = [(name, rows[name]) for name in names if name in rows]
    write_table(out / 'shares.csv', 'image', classes, table)
    failed = [ImageError(name, failures[name]) for name in names if name in failures]
    return Summary(len(table), tuple(failed))
