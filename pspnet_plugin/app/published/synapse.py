"""Synapse multi-organ CT: 30 volumes with 13 organs (BTCV challenge, MICCAI 2015).

Eight organs, the split and the orientation of the slices are those of TransUNet (Chen et al.,
2021). Slices are images of 16 bits: 0 to 65535 is -125 to 275 Hounsfield units, the window of that
paper.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from ..errors import DataError
from .archive import BROKEN, Member, paired
from .dataset import LabelledImage, Piece, PublishedDataset, by_value

WINDOW = -125, 275  # Hounsfield units
# Spleen, right and left kidney, gallbladder, liver, stomach, aorta, pancreas; esophagus (5), vena
# cava (9), portal and splenic vein (10) and the adrenal glands (12, 13) are background.
ORGANS = {1: 7, 2: 4, 3: 3, 4: 2, 6: 5, 7: 8, 8: 1, 11: 6}
TABLE = {value: ORGANS.get(value, 0) for value in range(14)}
VALIDATION = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)


def find_images(members: Sequence[Member]) -> list[LabelledImage]:
    images, labels = r'img(\d{4})\.nii\.gz', r'label(\d{4})\.nii\.gz'
    return [
        LabelledImage(case, split_of(case), partial(read, case, image, label))
        for (case,), image, label in paired(members, images, labels)
    ]


def split_of(case: str) -> str:
    """The split that a volume is in."""
    return 'val' if int(case) in VALIDATION else 'train'


def read(case: str, image: Member, label: Member) -> Iterator[Piece]:
    volume, organs = read_volume(image), read_volume(label)
    if volume.shape != organs.shape:
        raise DataError(f'{label}: {organs.shape} voxels, but its image has {volume.shape}')
    low, high = WINDOW
    scaled = (np.clip(volume, low, high) - low) * (65535 / (high - low))
    for number in range(volume.shape[2]):
        yield Piece(
            f'case{case}_slice{number:03d}',
            np.flip(scaled[:, :, number], 1).round().astype(np.uint16),
            by_value(np.flip(organs[:, :, number], 1), TABLE, label),
        )


def read_volume(member: Member) -> np.ndarray:
    """The values of a NIfTI file, (X, Y, Z).

    Raises:
        DataError: it is broken, has no three dimensions, or nibabel is missing.
    """
    try:
        import nibabel
    except ImportError as error:
        raise DataError('NIfTI files are read by nibabel: pip install nibabel') from error
    try:
        volume = nibabel.Nifti1Image.from_bytes(gzip.decompress(member.read())).get_fdata(
            dtype=np.float32
        )
    except (*BROKEN, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise DataError(f'{member}: is no whole NIfTI file ({error})') from error
    if volume.ndim != 3:
        raise DataError(f'{member}: has {volume.ndim} dimensions, not three')
    return volume


DATASET = PublishedDataset(
    'Synapse CT', 'RawData.zip', '.png', {'train': 18, 'val': 12}, find_images
)
