"""LoveDA: 1024 x 1024 aerial images of Chinese cities and countryside (Wang et al., NeurIPS 2021).

Label maps stay as they were published: 0 is no data, 1 to 7 are the classes, which is what mmseg's
``LoveDADataset`` reads. The published test images have no labels and are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .archive import Member, paired
from .dataset import LabelledImage, PublishedDataset, read_pair

VALUES = {value: value for value in range(8)}
FOLDER = '(Train|Val)/(?:Rural|Urban)'


def find_images(members: Sequence[Member]) -> list[LabelledImage]:
    images, labels = rf'{FOLDER}/images_png/(\d+)\.png', rf'{FOLDER}/masks_png/(\d+)\.png'
    return [
        LabelledImage(
            f'{folder}/{name}', folder.lower(), partial(read_pair, name, image, mask, VALUES)
        )
        for (folder, name), image, mask in paired(members, images, labels)
    ]


DATASET = PublishedDataset(
    'LoveDA', 'Train.zip and Val.zip', '.png', {'train': 2522, 'val': 1669}, find_images
)
