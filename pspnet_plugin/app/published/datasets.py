"""The published datasets: which files their archives hold, their splits, what their labels mean."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from ...utils.text import one_line
from ..errors import DataError
from .archive import Member, matching
from .dataset import (
    LabelledImage,
    Piece,
    PublishedDataset,
    by_table,
    look_up_colours,
    look_up_values,
    pairs,
    pixels,
    require_same_size,
)

# --- CamVid: street scenes of 960 x 720 pixels (Brostow et al., Pattern Recognition Letters 2009) -
# The 32 published classes are joined to the 11 that papers since SegNet report, with their split:
# frames of four videos, of which 0001TP and 0016E5 are divided.

CAMVID_CLASSES = {
    'sky': [(128, 128, 128)],
    # building, archway, bridge, tunnel, wall
    'building': [(128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)],
    # column, traffic cone
    'pole': [(192, 192, 128), (0, 0, 64)],
    # road, markings for driving and not for driving
    'road': [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
    # sidewalk, parking block, shoulder of the road
    'pavement': [(0, 0, 192), (64, 192, 128), (128, 128, 192)],
    # tree, other vegetation
    'tree': [(128, 128, 0), (192, 192, 0)],
    # sign, other text, traffic light
    'sign_symbol': [(192, 128, 128), (128, 128, 64), (0, 64, 64)],
    'fence': [(64, 64, 128)],
    # car, SUV or pickup, truck or bus, train, other that moves
    'car': [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],
    # pedestrian, child, cart or pram, animal
    'pedestrian': [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
    # bicyclist, motorcycle or scooter
    'bicyclist': [(0, 128, 192), (192, 0, 192)],
}
CAMVID_COLOURS = {
    colour: label for label, colours in enumerate(CAMVID_CLASSES.values()) for colour in colours
}
CAMVID_FRAME = r'((?:0001TP|0006R0|0016E5|Seq05VD)_f?\d+)'


def camvid_split(name: str) -> str:
    video, _, number = name.partition('_')
    frame = int(number.lstrip('f'))
    if video == 'Seq05VD' or (video == '0001TP' and frame >= 8550):
        return 'test'
    return 'val' if video == '0016E5' and 7959 <= frame <= 8159 else 'train'


# --- ISPRS Potsdam: aerial images of 6000 x 6000 pixels, cut into tiles of 512 -------------------
# Tiles, their names, the split and the values of the label maps (0 is ignored, 1 to 6 are the
# classes) are those of MMSegmentation's converter, so that its configs read them as well.

TILE = 512
POTSDAM_COLOURS = {
    (0, 0, 0): 0,  # the boundary of an object
    (255, 255, 255): 1,  # impervious surface
    (0, 0, 255): 2,  # building
    (0, 255, 255): 3,  # low vegetation
    (0, 255, 0): 4,  # tree
    (255, 255, 0): 5,  # car
    (255, 0, 0): 6,  # clutter
}


def read_potsdam(name: str, image: Member, label: Member) -> Iterator[Piece]:
    picture, colours = pixels(image), pixels(label, mode='RGB')
    require_same_size(picture, colours, label)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise DataError(f'{image}: is not an image of three channels of 8 bits')
    # Two published files have other values: 4_12 thousands of shades, 6_7 cars of (252, 255, 0).
    rounded = np.where(colours >= 128, np.uint8(255), np.uint8(0))
    label_map = look_up_colours(rounded, POTSDAM_COLOURS, label)
    height, width = label_map.shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            x, y = min(left, max(width - TILE, 0)), min(top, max(height - TILE, 0))
            right, bottom = min(x + TILE, width), min(y + TILE, height)
            window = slice(y, bottom), slice(x, right)
            yield Piece(f'{name}_{x}_{y}_{right}_{bottom}', picture[window], label_map[window])


# --- Synapse multi-organ CT: 30 volumes with 13 organs (BTCV challenge, MICCAI 2015) -------------
# Eight organs, the split and the orientation of the slices are those of TransUNet (Chen et al.,
# 2021). Slices are images of 16 bits: 0 to 65535 is -125 to 275 Hounsfield units, the window of
# that paper.

WINDOW = -125, 275  # Hounsfield units
# Spleen, right and left kidney, gallbladder, liver, stomach, aorta, pancreas; esophagus (5), vena
# cava (9), portal and splenic vein (10) and the adrenal glands (12, 13) are background.
ORGANS = {1: 7, 2: 4, 3: 3, 4: 2, 6: 5, 7: 8, 8: 1, 11: 6}
SYNAPSE_VALUES = {value: ORGANS.get(value, 0) for value in range(14)}
SYNAPSE_VALIDATION = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)


def read_synapse(case: str, image: Member, label: Member) -> Iterator[Piece]:
    volume, organs = read_volume(image), read_volume(label)
    if volume.shape != organs.shape:
        raise DataError(f'{label}: {organs.shape} voxels, but its image has {volume.shape}')
    low, high = WINDOW
    scaled = (np.clip(volume, low, high) - low) * (65535 / (high - low))
    for number in range(volume.shape[2]):
        yield Piece(
            f'case{case}_slice{number:03d}',
            np.flip(scaled[:, :, number], 1).round().astype(np.uint16),
            look_up_values(np.flip(organs[:, :, number], 1), SYNAPSE_VALUES, label),
        )


def read_volume(member: Member) -> np.ndarray:
    """The values of a NIfTI file, (X, Y, Z)."""
    try:
        import nibabel
    except ImportError as error:
        raise DataError('NIfTI files are read by nibabel: pip install nibabel') from error
    content = member.read()
    try:
        with gzip.open(io.BytesIO(content)) as unpacked:
            file = nibabel.Nifti1Image.from_bytes(member.content(unpacked))
        volume = file.get_fdata(dtype=np.float32)
    except DataError:
        raise
    except Exception as error:  # whatever a header leads to
        raise DataError(f'{member}: is no whole NIfTI file ({one_line(error)})') from error
    if volume.ndim != 3 or not volume.size:
        raise DataError(f'{member}: has {volume.shape} voxels, where a volume has three sides')
    if not np.isfinite(volume).all():
        raise DataError(f'{member}: holds values that are no numbers')
    return volume


# --- Severstal steel: images of 1600 x 256 pixels with four kinds of defects (Kaggle, 2019) ------
# The labels are run lengths in ``train.csv``. Labels of the competition's test images were never
# published, so a fifth of the training images, by a checksum of their names, is for validation.

DEFECTS = 4


def find_severstal(members: Sequence[Member]) -> list[LabelledImage]:
    tables = list(matching(members, r'train\.csv').values())
    if not tables:
        return []
    runs = read_run_lengths(tables[0])
    images = matching(members, r'train_images/([\w-]+)\.jpg')
    if images and not any((name,) in images for name in runs):
        raise DataError(
            f'{tables[0]}: has no run lengths of these images, which would all be background'
        )
    return [
        LabelledImage(
            name,
            'val' if zlib.crc32(name.encode()) % 5 == 0 else 'train',
            partial(read_severstal, name, image, runs.get(name, {}), tables[0]),
        )
        for (name,), image in images.items()
    ]


def read_run_lengths(table: Member) -> dict[str, dict[int, str]]:
    """Image -> kind of defect -> run lengths.

    The column of the image and that of the class were one, ``ImageId_ClassId``, at first.
    """
    found: dict[str, dict[int, str]] = defaultdict(dict)
    try:
        lines = list(csv.DictReader(io.StringIO(table.read().decode('utf-8-sig'))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f'{table}: is no table in UTF-8 ({error}); save it so') from error
    for number, line in enumerate(lines, 2):
        try:
            image = line.get('ImageId') or line['ImageId_ClassId'].rpartition('_')[0]
            kind = int(line.get('ClassId') or line['ImageId_ClassId'].rpartition('_')[2])
            runs = line['EncodedPixels'] or ''
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            wanted = 'ImageId,ClassId,EncodedPixels'
            raise DataError(f'{table}: line {number} is not {wanted}') from error
        if not 1 <= kind <= DEFECTS:
            raise DataError(f'{table}: line {number} has class {kind}; there are 1 to {DEFECTS}')
        name = image.removesuffix('.jpg')
        if kind in found.get(name, {}):
            raise DataError(f'{table}: line {number} repeats class {kind} of {image}')
        if runs.strip():
            found[name][kind] = runs
    return found


def read_severstal(name: str, image: Member, runs: dict[int, str], table: Member) -> list[Piece]:
    content = image.read()
    label_map = np.zeros(pixels(image, content).shape[:2], np.uint8)
    for kind in sorted(runs):  # where defects overlap, the higher number stays
        try:
            draw_runs(label_map, runs[kind], kind)
        except ValueError as error:
            raise DataError(f'{table}: {name}.jpg, class {kind}: {error}') from error
    return [Piece(name, content, label_map)]


def draw_runs(label_map: np.ndarray, runs: str, kind: int) -> None:
    """Write ``kind`` where run lengths say: pairs of a first pixel and a number of pixels.

    Pixels count from 1, down the columns. ValueError: they are no such pairs, or leave the image.
    """
    numbers = np.array(runs.split(), dtype=np.int64)
    firsts, lengths = numbers[::2] - 1, numbers[1::2]
    if len(firsts) != len(lengths):
        raise ValueError('an odd number of values')
    height, width = label_map.shape
    if (firsts < 0).any() or (lengths < 1).any() or (firsts + lengths > height * width).any():
        raise ValueError(f'a run leaves the image of {width} x {height} pixels')
    for first, length in zip(firsts, lengths):
        label_map.T.flat[first : first + length] = kind


PUBLISHED = {
    'camvid': PublishedDataset(
        'CamVid',
        '701_StillsRaw_full.zip and LabeledApproved_full.zip',
        {'train': 367, 'val': 101, 'test': 233},
        pairs(
            rf'{CAMVID_FRAME}\.png',
            rf'{CAMVID_FRAME}_L\.png',
            camvid_split,
            partial(by_table, table={(0, 0, 0): 255, **CAMVID_COLOURS}, mode='RGB'),
        ),
    ),
    # 1024 x 1024 aerial images of Chinese cities and countryside (Wang et al., NeurIPS 2021). Label
    # maps stay as they were published: 0 is no data, 1 to 7 are the classes, which is what mmseg's
    # LoveDADataset reads. The published test images have no labels and are left out.
    'loveda': PublishedDataset(
        'LoveDA',
        'Train.zip and Val.zip',
        {'train': 2522, 'val': 1669},
        pairs(
            r'(Train|Val)/(?:Rural|Urban)/images_png/(\d+)\.png',
            r'(Train|Val)/(?:Rural|Urban)/masks_png/(\d+)\.png',
            lambda folder, _: folder.lower(),
            partial(by_table, table={value: value for value in range(8)}),
        ),
    ),
    'potsdam': PublishedDataset(
        'ISPRS Potsdam',
        '2_Ortho_RGB.zip and 5_Labels_all_noBoundary.zip',
        {'train': 24, 'val': 14},
        pairs(
            r'top_potsdam_(\d+_\d+)_RGB\.tif',
            r'top_potsdam_(\d+_\d+)_label(?:_noBoundary)?\.tif',
            # By the column in which an image lies in the city.
            lambda name: 'val' if int(name.partition('_')[2]) >= 13 else 'train',
            read_potsdam,
        ),
    ),
    'synapse': PublishedDataset(
        'Synapse CT',
        'RawData.zip',
        {'train': 18, 'val': 12},
        pairs(
            r'img(\d{4})\.nii\.gz',
            r'label(\d{4})\.nii\.gz',
            lambda case: 'val' if int(case) in SYNAPSE_VALIDATION else 'train',
            read_synapse,
        ),
    ),
    'severstal': PublishedDataset(
        'Severstal steel',
        'severstal-steel-defect-detection.zip',
        {'train + val': 12568},
        find_severstal,
        '.jpg',
    ),
    # Images of about 230 x 630 pixels of surfaces with defects (Bozic et al., 2021); the published
    # test set becomes ``val``.
    'ksdd2': PublishedDataset(
        'KolektorSDD2',
        'KolektorSDD2.zip',
        {'train': 2331, 'val': 1004},
        pairs(
            r'(train|test)/(\d+)\.png',
            r'(train|test)/(\d+)_GT\.png',
            lambda folder, _: 'val' if folder == 'test' else 'train',
            partial(by_table, table={0: 0, 255: 1}, mode='L'),
        ),
    ),
}
