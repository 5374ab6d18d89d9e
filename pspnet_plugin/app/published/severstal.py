"""Severstal steel: 12568 images of 1600 x 256 pixels with four kinds of defects (Kaggle, 2019).

The labels are run lengths in ``train.csv``. Labels of the competition's test images were never
published, so a fifth of the training images, by a checksum of their names, is for validation.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import numpy as np

from ..errors import DataError
from .archive import Member, matching
from .dataset import LabelledImage, Piece, PublishedDataset, pixels

DEFECTS = 4


def find_images(members: Sequence[Member]) -> list[LabelledImage]:
    tables = matching(members, r'train\.csv')
    images = matching(members, r'train_images/([\w-]+)\.jpg')
    if not tables:
        return []
    (table,) = tables.values()
    runs = read_table(table)
    return [
        LabelledImage(name, split_of(name), partial(read, name, image, runs.get(name, {}), table))
        for (name,), image in images.items()
    ]


def split_of(name: str) -> str:
    """The split that an image is in."""
    return 'val' if zlib.crc32(name.encode()) % 5 == 0 else 'train'


def read_table(table: Member) -> dict[str, dict[int, str]]:
    """Image -> kind of defect -> run lengths.

    The column of the image and that of the class were one, ``ImageId_ClassId``, at first.
    """
    found: dict[str, dict[int, str]] = defaultdict(dict)
    lines = csv.DictReader(io.StringIO(table.read().decode('utf-8-sig')))
    for number, line in enumerate(lines, 2):
        try:
            image = line.get('ImageId') or line['ImageId_ClassId'].rpartition('_')[0]
            kind = int(line.get('ClassId') or line['ImageId_ClassId'].rpartition('_')[2])
            runs = line['EncodedPixels'] or ''
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise DataError(
                f'{table}: line {number} is not ImageId,ClassId,EncodedPixels'
            ) from error
        if not 1 <= kind <= DEFECTS:
            raise DataError(f'{table}: line {number} has class {kind}; there are 1 to {DEFECTS}')
        if runs.strip():
            found[image.rpartition('.')[0]][kind] = runs
    return found


def read(name: str, image: Member, runs: dict[int, str], table: Member) -> list[Piece]:
    content = image.read()
    label_map = np.zeros(pixels(image, content).shape[:2], np.uint8)
    for kind in sorted(runs):  # where defects overlap, the higher number stays
        try:
            label_map[decoded(runs[kind], label_map.shape)] = kind
        except ValueError as error:
            raise DataError(f'{table}: {name}.jpg, class {kind}: {error}') from error
    return [Piece(name, content, label_map)]


def decoded(runs: str, shape: tuple[int, ...]) -> np.ndarray:
    """Run lengths -> (H, W) bool.

    Args:
        runs: pairs of a first pixel and a number of pixels. Pixels count from 1, down the columns.

    Raises:
        ValueError: they are no such pairs, or lead out of the image.
    """
    numbers = np.array(runs.split(), dtype=np.int64)
    firsts, lengths = numbers[::2] - 1, numbers[1::2]
    size = shape[0] * shape[1]
    if len(firsts) != len(lengths):
        raise ValueError('an odd number of values')
    if (firsts < 0).any() or (lengths < 1).any() or (firsts + lengths > size).any():
        raise ValueError(f'a run leaves the image of {shape[1]} x {shape[0]} pixels')
    flat = np.zeros(size, bool)
    for first, length in zip(firsts, lengths):
        flat[first : first + length] = True
    return flat.reshape(shape[1], shape[0]).T


DATASET = PublishedDataset(
    'Severstal steel',
    'severstal-steel-defect-detection.zip',
    '.jpg',
    {'train + val': 12568},
    find_images,
)
