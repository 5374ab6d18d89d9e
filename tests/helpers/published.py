"""Miniatures of published datasets: archives with the structure, names and values of the real ones.

What the tables of the plugin say is written here a second time, as the publications have it.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
from PIL import Image

from tests.helpers.folders import image_of, mask_of

SIZE = (48, 64)  # rows, columns


class Published(NamedTuple):
    """Archives, and the labels that are to be written: (split, name) -> (H, W)."""

    archives: list[Path]
    labels: dict[tuple[str, str], np.ndarray]


def encoded(pixels: np.ndarray, kind: str = 'PNG') -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def camvid(root: Path) -> Published:
    # sky, wall, traffic cone, lane marking, shoulder, vegetation, traffic light, fence, truck or
    # bus, child, motorcycle or scooter, void
    colours = np.array(
        [
            *[(128, 128, 128), (64, 192, 0), (0, 0, 64), (128, 0, 192), (128, 128, 192)],
            *[(192, 192, 0), (0, 64, 64), (64, 64, 128), (192, 128, 192), (192, 128, 64)],
            *[(192, 0, 192), (0, 0, 0)],
        ],
        np.uint8,
    )
    splits = {
        **{'0001TP_006690': 'train', '0001TP_008520': 'train', '0006R0_f00930': 'train'},
        **{'0016E5_00390': 'train', '0016E5_07959': 'val', '0016E5_08159': 'val'},
        **{'0001TP_008550': 'test', 'Seq05VD_f00000': 'test'},
    }
    images, labels, expected = {}, {}, {}
    for number, (name, split) in enumerate(splits.items()):
        mask = mask_of(number, 12, SIZE)
        images[f'701_StillsRaw_full/{name}.png'] = encoded(image_of(mask, number))
        labels[f'{name}_L.png'] = encoded(colours[mask])
        expected[split, name] = np.where(mask == 11, 255, mask)
    archives = [
        zipped(root / '701_StillsRaw_full.zip', images),
        zipped(root / 'LabeledApproved_full.zip', labels),
    ]
    return Published(archives, expected)


def loveda(root: Path) -> Published:
    archives, expected, number = [], {}, 0
    for folder in ('Train', 'Val', 'Test'):
        files = {}
        for place in ('Rural', 'Urban', 'Rural', 'Urban'):
            mask = mask_of(number, 8, SIZE)
            files[f'{folder}/{place}/images_png/{number}.png'] = encoded(image_of(mask, number))
            if folder != 'Test':
                files[f'{folder}/{place}/masks_png/{number}.png'] = encoded(mask)
                expected[folder.lower(), str(number)] = mask
            number += 1
        archives.append(zipped(root / f'{folder}.zip', files))
    return Published(archives, expected)


def potsdam(root: Path) -> Published:
    colours = np.array(
        [
            *[(0, 0, 0), (255, 255, 255), (0, 0, 255), (0, 255, 255)],
            *[(0, 255, 0), (255, 255, 0), (255, 0, 0)],
        ],
        np.uint8,
    )
    images, labels, expected = {}, {}, {}
    for number, (place, split) in enumerate({'2_10': 'train', '7_13': 'val'}.items()):
        mask = mask_of(number, 7, (530, 700))
        name = f'top_potsdam_{place}'
        images[f'2_Ortho_RGB/{name}_RGB.tif'] = encoded(image_of(mask, number), 'TIFF')
        images[f'2_Ortho_RGB/{name}_RGB.tfw'] = b'0.05'
        labels[f'{name}_label_noBoundary.tif'] = encoded(colours[mask], 'TIFF')
        for left, top in ((0, 0), (188, 0), (0, 18), (188, 18)):
            tile = mask[top : top + 512, left : left + 512]
            expected[split, f'{place}_{left}_{top}_{left + 512}_{top + 512}'] = tile
    archives = [
        zipped(root / '2_Ortho_RGB.zip', images),
        zipped(root / '5_Labels_all_noBoundary.zip', labels),
    ]
    return Published(archives, expected)


def synapse(root: Path) -> Published:
    organs = [0, 8, 4, 3, 2, 6, 11, 1, 7]  # background and eight organs, in the order of classes
    files, expected = {}, {}
    for number, (case, split) in enumerate({'0005': 'train', '0001': 'val'}.items()):
        slices = [mask_of(10 * number + index, 9, SIZE) for index in range(3)]
        labels = np.array(organs, np.uint8)[np.stack(slices, 2)]
        labels[0, 0] = 13  # an adrenal gland, which becomes background
        density = np.random.default_rng(number).integers(-1024, 1500, labels.shape, np.int16)
        for kind, volume in (('img', density), ('label', labels)):
            content = nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()
            packed = zlib.compressobj(wbits=31)
            name = f'RawData/Training/{kind}/{kind}{case}.nii.gz'
            files[name] = packed.compress(content) + packed.flush()
        for index, mask in enumerate(slices):
            mask[0, 0] = 0
            expected[split, f'case{case}_slice{index:03d}'] = mask[:, ::-1]
    files['RawData/Testing/img/img0061.nii.gz'] = b'without labels, and never read'
    return Published([zipped(root / 'RawData.zip', files)], expected)


def severstal(root: Path) -> Published:
    files, expected, lines = {}, {}, ['ImageId,ClassId,EncodedPixels']
    for number in range(12):
        mask = mask_of(number, 5, SIZE) if number % 3 else np.zeros(SIZE, np.uint8)
        name = f'{number:09x}'
        files[f'train_images/{name}.jpg'] = encoded(image_of(mask, number), 'JPEG')
        lines += [
            f'{name}.jpg,{kind},{run_lengths(mask == kind)}'
            for kind in range(1, 5)
            if (mask == kind).any()
        ]
        split = 'val' if zlib.crc32(name.encode()) % 5 == 0 else 'train'
        expected[split, name] = mask
    files['train.csv'] = '\n'.join(lines).encode()
    files['test_images/ffffffff0.jpg'] = b''
    archive = zipped(root / 'severstal-steel-defect-detection.zip', files)
    return Published([archive], expected)


def run_lengths(mask: np.ndarray) -> str:
    """Where a mask is set, as the competition has it: from 1, down the columns."""
    flat = np.concatenate([[0], mask.ravel(order='F').astype(int), [0]])
    edges = np.flatnonzero(np.diff(flat)) + 1
    pairs = ((start, end - start) for start, end in zip(edges[::2], edges[1::2]))
    return ' '.join(f'{start} {length}' for start, length in pairs)


def ksdd2(root: Path) -> Published:
    files, expected = {}, {}
    for number in range(6):
        folder, split = ('train', 'train') if number < 4 else ('test', 'val')
        mask = mask_of(number, 2, (63 + number, 24)) if number % 2 else np.zeros((64, 23), np.uint8)
        name = str(10000 + number)
        files[f'{folder}/{name}.png'] = encoded(image_of(mask, number))
        files[f'{folder}/{name}_GT.png'] = encoded(mask * 255)
        expected[split, name] = mask
    return Published([zipped(root / 'KolektorSDD2.zip', files)], expected)


MINIATURES: dict[str, Callable[[Path], Published]] = {
    'camvid': camvid,
    'loveda': loveda,
    'potsdam': potsdam,
    'synapse': synapse,
    'severstal': severstal,
    'ksdd2': ksdd2,
}
