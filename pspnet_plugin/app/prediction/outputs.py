"""The files that belong to an image or a video, and how they are written: whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from ...errors import PredictionError
from ...utils.files import write_whole
from ..images.rasters import count_labels
from ..images.sources import Source
from .result import Prediction

LABELS, OVERLAYS, PROBABILITIES, FRAMES = 'labels', 'overlays', 'probabilities', 'frames'
SHARES = 'shares.csv'
JPEG_QUALITY = 90
DIGITS = 6  # of a share
LARGEST = 2**16 - 1


class Job(NamedTuple):
    """A source and its files.

    A video has no label map and no probabilities, an image no frames, a raster no overlay.
    """

    source: Source
    overlay: Path | None = None
    labels: Path | None = None
    probabilities: Path | None = None
    frames: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All files of the job."""
        every = (self.overlay, self.labels, self.probabilities, self.frames)
        return [path for path in every if path is not None]

    def is_done(self) -> bool:
        """Whether every file is there, and younger than the source where that is a file."""
        if not all(path.is_file() for path in self.files):
            return False
        if not os.path.isfile(self.source.name):
            return True
        oldest = min(path.stat().st_mtime for path in self.files)
        return oldest >= os.stat(self.source.name).st_mtime


def jobs_of(
    sources: Sequence[Source],
    out: Path,
    probabilities: bool,
    is_raster: Callable[[Source], bool] = lambda source: False,
) -> list[Job]:
    """A job for each source; below ``out``, folders keep their tree.

    Raises:
        PredictionError: two sources would be written to the same files.
    """
    jobs = []
    for source, name in zip(sources, output_names(sources)):
        if source.is_video:
            video, frames = out / OVERLAYS / f'{name}.mp4', out / FRAMES / f'{name}.csv'
            jobs.append(Job(source, video, frames=frames))
            continue
        pages = out / PROBABILITIES / f'{name}.tif' if probabilities else None
        if is_raster(source):
            jobs.append(Job(source, None, out / LABELS / f'{name}.tif', pages))
        else:
            overlay, labels = out / OVERLAYS / f'{name}.jpg', out / LABELS / f'{name}.png'
            jobs.append(Job(source, overlay, labels, pages))
    return jobs


def output_names(sources: Sequence[Source]) -> list[str]:
    """A name for each source: its place without the suffix, with it where two would be alike."""
    stems = [source.place.with_suffix('').as_posix() for source in sources]
    often = Counter(stems)
    places = [source.place.as_posix() for source in sources]
    names = [stem if often[stem] == 1 else place for stem, place in zip(stems, places)]
    seen: dict[str, Source] = {}
    for name, source in zip(names, sources):
        if name in seen:
            raise PredictionError(
                f'{seen[name].name} and {source.name} would both be written as {name}. Give the '
                'folder that both lie in, or predict them into two folders.'
            )
        seen[name] = source
    return names


# --- writing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A new file at ``path`` that is there when all of it is, with the folders above it.

    Raises:
        PredictionError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path, 'wb') as file:
            yield file
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> PredictionError:
    """What to tell where a file cannot be written."""
    return PredictionError(
        f'{path} cannot be written: {error.strerror or error}. What was written before is whole, '
        'and the same command goes on from there.'
    )


def write_prediction(job: Job, prediction: Prediction, opacity: float) -> None:
    """Write the files of an image, its label map last."""
    if job.probabilities is not None and prediction.probabilities is not None:
        write_probabilities(job.probabilities, prediction.probabilities)
    assert job.overlay is not None
    with writing(job.overlay) as file:
        picture = Image.fromarray(prediction.overlay(opacity, legend=True))
        picture.save(file, 'JPEG', quality=JPEG_QUALITY)
    if job.labels is not None:
        try:
            prediction.save(job.labels)
        except OSError as error:
            raise cannot_write(job.labels, error) from error


def write_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Write (C, H, W) as a TIFF file of a page for each class, 16 bits: 65535 is 1."""
    pages = [Image.fromarray(np.rint(page * LARGEST).astype(np.uint16)) for page in probabilities]
    content = io.BytesIO()  # Pillow reads what it has written of a file of many pages
    options = {'save_all': True, 'append_images': pages[1:]}
    pages[0].save(content, 'TIFF', compression='tiff_adobe_deflate', **options)
    with writing(path) as file:
        file.write(content.getbuffer())


def read_label_map(path: Path) -> np.ndarray:
    """The label map that :meth:`Prediction.save` wrote."""
    with Image.open(path) as picture:
        return np.asarray(picture)


# --- shares of the classes ----------------------------------------------------------------------


def shares(counts: np.ndarray) -> list[str]:
    """Pixels of each class -> their shares of all pixels, as a table shows them."""
    return [f'{share:.{DIGITS}f}' for share in counts / max(counts.sum(), 1)]


def mean_shares(path: Path) -> list[str]:
    """The shares of a whole video, from the table of its frames."""
    with open(path, newline='', encoding='utf-8') as file:
        rows = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=float)
    return [f'{share:.{DIGITS}f}' for share in rows.mean(0)]


def shares_of(job: Job, classes: int) -> list[str]:
    """The shares of a job whose files are written."""
    if job.frames is not None:
        return mean_shares(job.frames)
    assert job.labels is not None
    if job.overlay is None:
        return shares(count_labels(job.labels, classes))
    return shares(np.bincount(read_label_map(job.labels).ravel(), minlength=classes))


def write_table(
    path: Path, first: str, classes: Sequence[str], rows: Iterable[tuple[Any, Sequence[str]]]
) -> None:
    """Write a CSV file of a row for each image or frame, and a column for each class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow([first, *classes])
    table.writerows([name, *values] for name, values in rows)
    with writing(path) as file:  # names of files need not be UTF-8
        file.write(text.getvalue().encode('utf-8', 'surrogateescape'))
