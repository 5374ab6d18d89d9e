"""KolektorSDD2: images of about 230 x 630 pixels of surfaces with defects (Bozic et al., 2021).

The published test set becomes ``val``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .archive import Member, matching
from .field import Field, Piece, Source, by_value, pixels, same_size

VALUES = {0: 0, 255: 1}
SPLITS = {'train': 'train', 'test': 'val'}


def sources(members: Sequence[Member]) -> list[Source]:
    images = matching(members, r'(train|test)/(\d+)\.png')
    labels = matching(members, r'(train|test)/(\d+)_GT\.png')
    return [
        Source(f'{folder}/{name}', SPLITS[folder], partial(read, name, image, label))
        for (folder, name), image in images.items()
        if (label := labels.get((folder, name)))
    ]


def read(name: str, image: Member, label: Member) -> list[Piece]:
    content, values = image.read(), pixels(label, mode='L')
    same_size(pixels(image, content), values, label)
    return [Piece(name, content, by_value(values, VALUES, label))]


FIELD = Field('KolektorSDD2', 'KolektorSDD2.zip', '.png', {'train': 2331, 'val': 1004}, sources)
