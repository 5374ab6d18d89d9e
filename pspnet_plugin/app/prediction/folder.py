"""Images and videos into a folder of results, from where an earlier run stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from errno import EEXIST, EILSEQ, EINVAL, EISDIR, ENAMETOOLONG, ENOENT, ENOTDIR
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import gather_object
from torch import nn

from ...errors import ImageError, PredictionError, PspnetPluginError
from ...utils.datasets import scope_of
from ...utils.distributed import connected, in_first_process
from ...utils.files import UNFINISHED, without_leftovers, write_text
from ..images.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, sources_of
from ..models import model_settings
from .jobs import FOLDERS, RECORDS, Job, jobs_of
from .large import predict_raster, predict_video
from .pipeline import stated_pipeline
from .predictor import PredictOptions, Predictor, ahead, failure
from .results import Prediction, write_prediction, write_table

SHARES = 'shares.csv'
LEFTOVERS = UNFINISHED, *(f'{folder}/**/{UNFINISHED}' for folder in FOLDERS)
WAITING = 1  # predictions that wait to be written; those of many classes are large
# Errors of the system that are due to the name of a file, or to what stands in its place; others
# come from the disk.
OF_ONE_FILE = (None, EEXIST, EILSEQ, EINVAL, EISDIR, ENAMETOOLONG, ENOENT, ENOTDIR)


class Summary(NamedTuple):
    """What became of the images, in the first process; the others have empty ones."""

    predicted: int = 0  # how many have their files, those from earlier runs included
    failures: tuple[ImageError, ...] = ()  # what is wrong with the others, in their order


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
        raise PredictionError(f'There is no image outside of {out}, which gets the results.')
    try:
        with connected() as (rank, processes), contextlib.ExitStack() as stack:
            in_first_process(lambda: claim(out, record_of(predictor, opacity)))
            if rank == 0:
                stack.enter_context(without_leftovers(out, *LEFTOVERS))
            found = predict_jobs(predictor, jobs[rank::processes], opacity, advance)
            parts = gather_object(found)  # None but in the first process
            return joined(parts, jobs, out, predictor.classes) if parts else Summary()
    except OSError as error:
        raise PredictionError(
            f'{error.filename or out} cannot be written: {error.strerror or error}. What was '
            'written before is whole, and the same command goes on from there.'
        ) from error


def record_of(predictor: Predictor, opacity: float) -> dict[str, Any]:
    """What the results depend on, and the classes behind the values of the label maps."""
    model, options = predictor.model, predictor.options
    read = [model_settings(model.cfg), stated_pipeline(model.cfg, options.tta), scope_of(model.cfg)]
    text = json.dumps(read, sort_keys=True, default=str)
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
    """Write ``record`` into ``out``, or find it there.

    Raises:
        PredictionError: another one is there, or what this command does not overwrite.
    """
    path = out / 'prediction.json'
    if not path.is_file():
        for there in filter(os.path.lexists, (out / SHARES, out / RECORDS)):
            raise PredictionError(
                f'{there} is not of pspnet predict, or {path.name} is missing, which says by which '
                'model it was made: it is not overwritten. Name another folder, or move this one.'
            )
        write_text(path, json.dumps(record, indent=1))
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
    outcomes: dict[str, list[str] | ImageError] = {}

    def settle(name: str, outcome: list[str] | ImageError) -> None:
        outcomes.setdefault(name, outcome)
        advance(completed=len(outcomes), total=len(jobs))

    def write(prediction: Prediction) -> tuple[str, list[str] | ImageError]:
        name = prediction.source.name
        fill = partial(write_prediction, prediction=prediction, opacity=opacity)
        return name, outcomes.get(name) or outcome_of(by_name[name], by_name[name].write, fill)

    images = [job for job in jobs if job.kind == 'image']
    # A batch is predicted as a whole or not at all: alone, an image might be rounded otherwise.
    size = predictor.batch_size
    groups = [images[first : first + size] for first in range(0, len(images), size)]
    by_name: dict[str, Job] = {}  # the images that are left
    for group in groups:
        earlier = {job.source.name: outcome_of(job, job.earlier_shares) for job in group}
        for name, outcome in earlier.items():
            if outcome is not None:
                settle(name, outcome)
        if None in earlier.values():
            by_name.update((job.source.name, job) for job in group)
    sources = [job.source for job in by_name.values()]
    predictions = predictor.predict(sources, lambda error: settle(error.name, error))
    for written in ahead(write, predictions, WAITING):
        settle(*written.result())
    for job in jobs:
        if job.kind != 'image':
            settle(job.source.name, outcome_of(job, predict_parts, predictor, job, opacity))
    rows = {name: found for name, found in outcomes.items() if isinstance(found, list)}
    failed = {name: found for name, found in outcomes.items() if isinstance(found, ImageError)}
    return rows, {name: error.reason for name, error in failed.items()}


def predict_parts(predictor: Predictor, job: Job, opacity: float) -> list[str]:
    """Predict a video or a raster where an earlier run has not; the shares of the classes."""
    path = job.source.name
    if job.kind == 'video':
        fill = partial(predict_video, predictor, path, opacity=opacity)
    else:
        fill = partial(predict_raster, predictor, path)
    return job.earlier_shares() or job.write(fill)


def outcome_of(job: Job, function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns; where it fails, the ImageError of the source, so others go on.

    Raises:
        PredictionError, OSError: what is wrong concerns them all.
    """
    try:
        return function(*args)
    except ImageError as error:  # it may name a frame
        return ImageError(job.source.name, error.reason)
    except PspnetPluginError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in OF_ONE_FILE:
            raise
        return failure(job.source, 'cannot be predicted', error)


def joined(
    parts: Sequence[tuple[dict, dict]], jobs: Sequence[Job], out: Path, classes: list[str]
) -> Summary:
    """Write the table of all images, from the rows and failures of each process."""
    rows: Mapping[str, Any]
    rows, failures = (ChainMap(*found) for found in zip(*parts))
    names = [job.source.name for job in jobs]
    table = [(name, rows[name]) for name in names if name in rows]
    write_table(out / SHARES, 'image', classes, table)
    failed = [ImageError(name, failures[name]) for name in names if name in failures]
    return Summary(len(table), tuple(failed))
