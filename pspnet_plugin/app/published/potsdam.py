"""ISPRS Potsdam: 38 aerial images of 6000 x 6000 pixels, cut into tiles of 512.

Tiles, their names, the split and the values of the label maps (0 is ignored, 1 to 6 are the
classes) are those of MMSegmentation's converter, so that its configs read them as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from ..errors import DataError
from .archive import Member, paired
from .dataset import LabelledImage, Piece, PublishedDataset, by_colour, pixels, same_size

TILE = 512
FIRST_COLUMN_OF_VALIDATION = 13
TABLE = {
    (0, 0, 0): 0,  # the boundary of an object
    (255, 255, 255): 1,  # impervious surface
    (0, 0, 255): 2,  # building
    (0, 255, 255): 3,  # low vegetation
    (0, 255, 0): 4,  # tree
    (255, 255, 0): 5,  # car
    (255, 0, 0): 6,  # clutter
}


def find_images(members: Sequence[Member]) -> list[LabelledImage]:
    images = r'top_potsdam_(\d+_\d+)_RGB\.tif'
    labels = r'top_potsdam_(\d+_\d+)_label(?:_noBoundary)?\.tif'
    return [
        LabelledImage(name, split_of(name), partial(read, name, image, label))
        for (name,), image, label in paired(members, images, labels)
    ]


def split_of(name: str) -> str:
    """The split of ``ROW_COLUMN``, which is where an image lies in the city."""
    return 'val' if int(name.split('_')[1]) >= FIRST_COLUMN_OF_VALIDATION else 'train'


def read(name: str, image: Member, label: Member) -> Iterator[Piece]:
    picture, colours = pixels(image), pixels(label, mode='RGB')
    same_size(picture, colours, label)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise DataError(f'{image}: is not an image of three channels of 8 bits')
    label_map = by_colour(rounded(colours), TABLE, label)
    for top in starts(label_map.shape[0]):
        for left in starts(label_map.shape[1]):
            bottom, right = top + TILE, left + TILE
            window = slice(top, bottom), slice(left, right)
            bottom, right = min(bottom, label_map.shape[0]), min(right, label_map.shape[1])
            yield Piece(f'{name}_{left}_{top}_{right}_{bottom}', picture[window], label_map[window])


def rounded(colours: np.ndarray) -> np.ndarray:
    """Labels in which each channel is 0 or 255.

    Two published files are not: 4_12 has thousands of shades, 6_7 has cars of (252, 255, 0).
    """
    return np.where(colours >= 128, np.uint8(255), np.uint8(0))


def starts(length: int) -> list[int]:
    """Where tiles begin along a side; the last one ends with the image."""
    return [min(start, max(length - TILE, 0)) for start in range(0, length, TILE)]


DATASET = PublishedDataset(
    'ISPRS Potsdam',
    '2_Ortho_RGB.zip and 5_Labels_all_noBoundary.zip',
    '.png',
    {'train': 24, 'val': 14},
    find_images,
)
