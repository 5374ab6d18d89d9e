"""Folders of images and masks, as users have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_origin

SIZE = (40, 56)  # rows, columns
PLACE = {'crs': 'EPSG:32632', 'transform': from_origin(600000, 5300000, 0.5, 0.5)}


def mask_of(number: int, classes: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blocks of random labels, uint8 (H, W)."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, classes, (-(-size[0] // 8), -(-size[1] // 8)))
    return np.kron(blocks, np.ones((8, 8), int))[: size[0], : size[1]].astype(np.uint8)


def image_of(mask: np.ndarray, number: int, channels: int = 3, dtype: str = 'uint8') -> np.ndarray:
    """Colours that follow a mask, with noise: (H, W) for one channel, otherwise (H, W, C)."""
    rng = np.random.default_rng(number)
    largest = np.iinfo(dtype).max
    colours = np.random.default_rng(99).integers(largest // 8, largest, (256, channels))
    pixels = colours[mask] + rng.normal(0, largest / 50, (*mask.shape, channels))
    return np.clip(pixels, 0, largest).astype(dtype).squeeze()


def make_folders(
    root: Path,
    count: int = 10,
    image_name: str = '{}.png',
    mask_name: str = '{}.png',
    channels: int = 3,
    dtype: str = 'uint8',
    size: tuple[int, int] = SIZE,
    mask_values: Sequence[int] = (0, 1, 2),
) -> tuple[Path, Path]:
    """Write ``count`` pairs into ``root/images`` and ``root/masks``; the two folders."""
    folders = root / 'images', root / 'masks'
    for number in range(count):
        mask = mask_of(number, size=size)
        image = image_of(mask, number, channels, dtype)
        for folder, name in zip(folders, (image_name, mask_name)):
            (folder / name.format(number)).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folders[0] / image_name.format(number)), image)
        Image.fromarray(np.array(mask_values, np.uint8)[mask]).save(
            folders[1] / mask_name.format(number)
        )
    return folders


def contents_of(folder: Path) -> dict[str, bytes]:
    """The content of each file in a folder and below it, by its path there."""
    paths = sorted(path for path in folder.rglob('*') if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def write_raster(path: str | Path, bands: np.ndarray, **options: object) -> str | Path:
    """Write (bands, H, W) as GeoTIFF; the path."""
    count, height, width = bands.shape
    shape = {'count': count, 'height': height, 'width': width, 'dtype': bands.dtype.name}
    with rasterio.open(path, 'w', **{'driver': 'GTiff', **shape, **options}) as file:
        file.write(bands)
    return path
