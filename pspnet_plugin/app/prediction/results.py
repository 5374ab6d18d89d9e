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

PALETTE_SIZE = 256
JPEG_QUALITY = 90
FULL = 2**16 - 1  # the value of probability 1


@dataclass(frozen=True)
class Prediction:
    """The label map of one image, at the image's own size.

    Attributes:
        label_map: (H, W), uint8, or uint16 where there are more than 256 classes.
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
        return np.bincount(self.label_map.ravel(), minlength=len(self.classes))

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

        The file is whole or not there. More than 256 classes make it a 16-bit one without colours.
        """
        picture = Image.fromarray(self.label_map)
        if len(self.classes) <= PALETTE_SIZE:
            picture = picture.convert('P') if picture.mode != 'L' else picture
            picture.putpalette([part for colour in self.palette for part in colour])
        with write_whole(os.fspath(path), 'wb') as file:
            picture.save(file, 'PNG')


def write_prediction(files: Mapping[str, Path], prediction: Prediction, opacity: float) -> None:
    """Write the files of an image, its label map last.

    Probabilities are a TIFF file of a page for each class, 16 bits.
    """
    if prediction.probabilities is not None:
        pages = [np.rint(page * FULL).astype(np.uint16) for page in prediction.probabilities]
        first, *others = map(Image.fromarray, pages)
        options = {'save_all': True, 'append_images': others}
        # Pillow reads what it has written of a file of many pages.
        with write_whole(files['probabilities'], 'w+b') as file:
            first.save(file, 'TIFF', compression='tiff_adobe_deflate', **options)
    with write_whole(files['overlays'], 'wb') as file:
        picture = Image.fromarray(prediction.overlay(opacity, legend=True))
        picture.save(file, 'JPEG', quality=JPEG_QUALITY)
    prediction.save(files['labels'])


def write_table(
    path: Path, first: str, classes: Sequence[str], rows: Iterable[tuple[Any, Sequence[str]]]
) -> None:
    """Write a CSV file of a row for each image or frame, and a column for each class."""
    # Names of files need not be UTF-8.
    options = {'encoding': 'utf-8', 'errors': 'surrogateescape', 'newline': ''}
    with write_whole(path, 'w', **options) as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow([first, *classes])
        table.writerows([name, *values] for name, values in rows)


def class_shares(counts: np.ndarray) -> list[str]:
    """Pixels of each class -> their shares of all pixels, as a table shows them."""
    return [f'{share:.6f}' for share in counts / max(counts.sum(), 1)]
