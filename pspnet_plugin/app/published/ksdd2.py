"""KolektorSDD2: images of about 230 x 630 pixels of surfaces with defects (Bozic et al., 2021).

The published test set becomes ``val``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .archive import Member, paired
from .dataset import LabelledImage, PublishedDataset, read_pair

VALUES = {0: 0, 255: 1}
SPLITS = {'train': 'train', 'test': 'val'}


def find_images(members: Sequence[Member]) -> list[LabelledImage]:
    images, labels = r'(train|test)/(\d+)\.png', r'(train|test)/(\d+)_GT\.png'
    return [
        LabelledImage(
            f'{folder}/{name}', SPLITS[folder], partial(read_pair, name, image, mask, VALUES, 'L')
        )
        for (folder, name), image, mask in paired(members, images, labels)
    ]


DATASET = PublishedDataset(
    'KolektorSDD2', 'KolektorSDD2.zip', '.png', {'train': 2331, 'val': 1004}, find_images
)
