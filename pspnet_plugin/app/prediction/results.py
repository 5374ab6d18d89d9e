"""What is predicted for one image, and how results are written."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...utils.files import write_whole
from ..images.drawing import draw_label_map, to_rgb, with_legend
from ..images.sources import ImageSource

JPEG_QUALITY, JPEG_SIDE = 90, 65500  # pixels, which is what libjpeg takes
FULL = 2**16 - 1  # the value of probability 1
FORMULAS = '=', '+', '-', '@', '\t', '\r'  # beginnings of cells that spreadsheets compute


@dataclass(frozen=True, repr=False)
class Prediction:
    """The label map of one image, at the image's own size.

    Attributes:
        label_map: (H, W), uint8, or uint16 from 256 classes on: the largest value is no class, but
            stands where the image has no data.
        probabilities: (C, H, W) float32, the sum over the classes is 1; None where not asked for.
        classes: the names of the classes.
        palette: their colours, RGB from 0 to 255.
        image: the pixels as they were read, (H, W, C) or (H, W); colours are BGR.
        source: where they came from.
    """

    label_map: np.ndarray
    probabilities: np.ndarray | None
    classes: list[str]
    palette: list[list[int]]
    image: np.ndarray
    source: ImageSource

    @property
    def path(self) -> str | None:
        """The path or address of the image, None where it was given as pixels."""
        return self.source.path

    @property
    def counts(self) -> np.ndarray:
        """How many pixels each class has, (C,)."""
        return count_labels(self.label_map, len(self.classes))

    def overlay(self, opacity: float = 0.5, legend: bool = False) -> np.ndarray:
        """The colours of the classes over the image, (H, W, 3) uint8 RGB.

        Args:
            opacity: of the colours, 0 to 1.
            legend: add the names of the classes that occur, below the image.
        """
        picture = draw_label_map(to_rgb(self.image), self.label_map, self.palette, opacity)
        if not legend:
            return picture
        present = np.flatnonzero(self.counts)
        return with_legend(
            picture, [self.classes[n] for n in present], [self.palette[n] for n in present]
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write the label map as a PNG file whose pixels are class numbers, shown in their colours.

        The file is whole or not there. From 256 classes on it is a 16-bit one without colours.
        """
        with write_whole(os.fspath(path), 'wb') as file:
            self.as_picture().save(file, 'PNG')

    def as_picture(self) -> Image.Image:
        """The label map as a Pillow image, up to 255 classes with their colours as its palette."""
        picture = Image.fromarray(self.label_map)
        if self.label_map.dtype == np.uint8:
            colours = [part for colour in self.palette for part in colour]
            # With fewer than 17 of them Pillow would write fewer bits, and 255 as 1, 3 or 15.
            picture.putpalette(colours + [0] * (3 * 256 - len(colours)))
        return picture

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        present = np.count_nonzero(self.counts)
        return (
            f'Prediction({self.source.name!r}, {width} x {height} pixels, '
            f'{present} of {len(self.classes)} classes)'
        )


def write_prediction(files: Mapping[str, str], prediction: Prediction, opacity: float) -> list[str]:
    """Write the files of an image, by their folder, and return the shares of the classes.

    Probabilities are a TIFF file of a page for each class, 16 bits.
    """
    if prediction.probabilities is not None:
        pages = [np.rint(page * FULL).astype(np.uint16) for page in prediction.probabilities]
        first, *others = map(Image.fromarray, pages)
        options = {'save_all': True, 'append_images': others}
        first.save(files['probabilities'], 'TIFF', compression='tiff_adobe_deflate', **options)
    picture = Image.fromarray(prediction.overlay(opacity, legend=True))
    picture.thumbnail((JPEG_SIDE, JPEG_SIDE))  # smaller ones stay as they are
    picture.save(files['overlays'], 'JPEG', quality=JPEG_QUALITY)
    prediction.as_picture().save(files['labels'], 'PNG')
    return class_shares(prediction.counts)


def write_table(
    path: str | Path, first: str, classes: Sequence[str], rows: Iterable[tuple[Any, Sequence[str]]]
) -> None:
    """Write a CSV file of a row for each image or frame, and a column for each class.

    What a spreadsheet would compute begins with ``./``, names of classes with an apostrophe.
    """
    # Names of files need not be UTF-8.
    options = {'encoding': 'utf-8', 'errors': 'surrogateescape', 'newline': ''}
    with write_whole(path, 'w', **options) as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow([first, *(inert(name, "'") for name in classes)])
        table.writerows([inert(str(name), './'), *values] for name, values in rows)


def inert(cell: str, mark: str) -> str:
    """A cell that is no formula, behind ``mark`` where it would be one."""
    return f'{mark}{cell}' if cell.startswith(FORMULAS) else cell


def count_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of (H, W) have each label, (classes,); others are no labels.

    Row by row, because bincount needs eight bytes for each pixel.
    """
    counts = np.zeros(classes, np.int64)
    for row in labels:
        counts += np.bincount(row, minlength=classes)[:classes]
    return counts


def class_shares(counts: np.ndarray) -> list[str]:
    """Pixels of each class -> their shares of all pixels, as a table shows them."""
    return [f'{share:.6f}' for share in counts / max(counts.sum(), 1)]
