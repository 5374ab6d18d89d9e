"""LoveDA: 1024 x 1024 aerial images of Chinese cities and countryside (Wang et al., NeurIPS 2021).

Label maps stay as they were published: 0 is no data, 1 to 7 are the classes, which is what mmseg's
``LoveDADataset`` reads. The published test images have no labels and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .archive import Member, matching
from .field import Field, Piece, Source, by_value, pixels, same_size

VALUES = {value: value for value in range(8)}
FOLDER = '(Train|Val)/(?:Rural|Urban)'


def sources(members: Sequence[Member]) -> list[Source]:
    images = matching(members, rf'{FOLDER}/images_png/(\d+)\.png')
    labels = matching(members, rf'{FOLDER}/masks_png/(\d+)\.png')
    return [
        Source(f'{folder}/{name}', folder.lower(), partial(read, name, image, label))
        for (folder, name), image in images.items()
        if (label := labels.get((folder, name)))
    ]


def read(name: str, image: Member, label: Member) -> list[Piece]:
    content, values = image.read(), pixels(label)
    same_size(pixels(image, content), values, label)
    return [Piece(name, content, by_value(values, VALUES, label))]


FIELD = Field('LoveDA', 'Train.zip and Val.zip', '.png', {'train': 2522, 'val': 1669}, sources)
