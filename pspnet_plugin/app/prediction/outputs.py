"""The files in a folder of results: which there are, and how they are written."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ...errors import PredictionError
from ...utils.files import write_whole
from ...utils.rasters import count_labels
from ..images.sources import ImageSource
from .result import Prediction

JPEG_QUALITY = 90
FULL = 2**16 - 1  # the value of probability 1


class Job(NamedTuple):
    """A source and its files.

    A video has no label map and no probabilities, an image no frames, a raster no overlay.
    """

    source: ImageSource
    overlay: Path | None = None
    labels: Path | None = None
    probabilities: Path | None = None
    frames: Path | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is neither a video nor a raster."""
        return self.overlay is not None and self.labels is not None

    def is_done(self) -> bool:
        """Whether every file is there, and younger than the source where that is a file."""
        files = (self.overlay, self.labels, self.probabilities, self.frames)
        paths = [path for path in files if path is not None]
        if not all(path.is_file() for path in paths):
            return False
        if not os.path.isfile(self.source.name):
            return True
        oldest = min(path.stat().st_mtime for path in paths)
        return oldest >= os.stat(self.source.name).st_mtime


def jobs_of(
    sources: Iterable[ImageSource], out: Path, probabilities: bool, rasters: bool
) -> list[Job]:
    """A job for each source outside of ``out``, below which folders keep their tree.

    Args:
        rasters: whether files that GDAL reads become rasters with the georeference of the image.
    """
    results = out.resolve()
    once = {source.name: source for source in sources}.values()
    sources = [s for s in once if results not in Path(s.name).resolve().parents]
    jobs = []
    for source, name in zip(sources, output_names(sources)):
        if source.is_video:
            video, frames = out / 'overlays' / f'{name}.mp4', out / 'frames' / f'{name}.csv'
            jobs.append(Job(source, video, frames=frames))
            continue
        pages = out / 'probabilities' / f'{name}.tif' if probabilities else None
        if rasters and source.is_raster:
            jobs.append(Job(source, None, out / 'labels' / f'{name}.tif', pages))
        else:
            overlay, labels = out / 'overlays' / f'{name}.jpg', out / 'labels' / f'{name}.png'
            jobs.append(Job(source, overlay, labels, pages))
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


# --- writing ------------------------------------------------------------------------------------


def write_prediction(job: Job, prediction: Prediction, opacity: float) -> None:
    """Write the files of an image, its label map last."""
    assert job.overlay is not None
    assert job.labels is not None
    if job.probabilities is not None and prediction.probabilities is not None:
        write_probabilities(job.probabilities, prediction.probabilities)
    with write_whole(job.overlay, 'wb') as file:
        picture = Image.fromarray(prediction.overlay(opacity, legend=True))
        picture.save(file, 'JPEG', quality=JPEG_QUALITY)
    prediction.save(job.labels)


def write_probabilities(path: Path, probabilities: np.ndarray) -> None:
    """Write (C, H, W) as a TIFF file of a page for each class, 16 bits: 65535 is 1."""
    pages = [Image.fromarray(np.rint(page * FULL).astype(np.uint16)) for page in probabilities]
    content = io.BytesIO()  # Pillow reads what it has written of a file of many pages
    options = {'save_all': True, 'append_images': pages[1:]}
    pages[0].save(content, 'TIFF', compression='tiff_adobe_deflate', **options)
    with write_whole(path, 'wb') as file:
        file.write(content.getbuffer())


def write_table(
    path: Path, first: str, classes: Sequence[str], rows: Iterable[tuple[Any, Sequence[str]]]
) -> None:
    """Write a CSV file of a row for each image or frame, and a column for each class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow([first, *classes])
    table.writerows([name, *values] for name, values in rows)
    with write_whole(path, 'wb') as file:  # names of files need not be UTF-8
        file.write(text.getvalue().encode('utf-8', 'surrogateescape'))


# --- shares of the classes ----------------------------------------------------------------------


def class_shares(counts: np.ndarray) -> list[str]:
    """Pixels of each class -> their shares of all pixels, as a table shows them."""
    return [f'{share:.6f}' for share in counts / max(counts.sum(), 1)]


def written_shares(job: Job, classes: int) -> list[str]:
    """The shares of a job whose files are written; of a video, the mean over its frames."""
    if job.frames is not None:
        with open(job.frames, newline='', encoding='utf-8') as file:
            rows = np.array([row[1:] for row in list(csv.reader(file))[1:]], dtype=float)
        return [f'{share:.6f}' for share in rows.mean(0)]
    assert job.labels is not None
    if not job.is_image:
        return class_shares(count_labels(job.labels, classes))
    with Image.open(job.labels) as picture:
        return class_shares(np.bincount(np.asarray(picture).ravel(), minlength=classes))
