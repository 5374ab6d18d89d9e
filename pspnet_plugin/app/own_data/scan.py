"""Which mask belongs to which image, what both hold, and what is wrong with them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from rich.progress import track

from ...errors import ImageError, PredictionError
from ...transforms.load_raster import read_raster
from ..errors import DataError, refuse
from ..images.reading import quiet_opencv, read_bytes, require_whole
from ..images.sources import RASTER_SUFFIXES, files_below
from .masks import count_values, read_mask

SUFFIXES = frozenset(
    ['.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp']
)
SAMPLE = 256  # names
THUMBNAIL = (16, 16)


class Pair(NamedTuple):
    """An image and its mask."""

    name: str  # the image's path below its folder, without the suffix
    image: Path
    mask: Path


class ImageStatistics(NamedTuple):
    """What is known of an image and its mask."""

    pair: Pair  # their files
    size: tuple[int, int]  # (height, width) in pixels
    channels: int  # of the image
    depth: str  # the name of the data type of its values
    values: Counter  # how many pixels of the mask have each value
    # (16, 16) float32, the grey image, scaled to 0 to 1 by its own largest value.
    thumbnail: np.ndarray
    total: np.ndarray  # sum of the values in each channel, BGR for colours
    squares: np.ndarray  # sum of their squares
    plain_mask: bool  # whether mmseg reads the same numbers from the mask itself
    # Whether OpenCV reads the image, and so ``LoadImageFromFile``; otherwise GDAL.
    by_opencv: bool = True


def pair_files(images: Path, masks: Path) -> list[Pair]:
    """Pair the files of two folders, with all below them.

    The names of a pair are equal, or have a part in common and around it what all names of their
    folder have: ``street_7_image.jpg`` and ``mask_street_7.png``.

    Raises:
        DataError: a file has no partner, or the images have several suffixes.
    """
    found = {path_stem(path, images): path for path in files_below(images, SUFFIXES)}
    labels = {path_stem(path, masks): path for path in files_below(masks, SUFFIXES)}
    problems = [
        f'{folder}: no images ({" ".join(sorted(SUFFIXES))})'
        for folder, files in ((images, found), (masks, labels))
        if not files
    ]
    refuse(problems)
    return pair_stems(found, labels)


def pair_stems(found: dict[str, Path], labels: dict[str, Path]) -> list[Pair]:
    """Pair images and masks by their paths without suffixes, see :func:`pair_files`."""
    if not found:
        raise DataError(f'{next(iter(labels.values()))}: no image, and none for any other mask')
    require_one_suffix(list(found.values()))
    image_keys, mask_keys = best_keys(list(found), list(labels))
    paired = sorted(image_keys.keys() & mask_keys.keys())
    pairs = {image_keys[key]: mask_keys[key] for key in paired}
    lonely = [f'{found[stem]}: no mask' for stem in found.keys() - pairs.keys()]
    lonely += [f'{labels[stem]}: no image' for stem in labels.keys() - set(pairs.values())]
    refuse(sorted(lonely))
    return [Pair(stem, found[stem], labels[mask]) for stem, mask in pairs.items()]


def require_one_suffix(images: Sequence[Path]) -> None:
    """Raise DataError for images of several suffixes, which a config cannot name."""
    suffixes = Counter(path.suffix for path in images).most_common()
    if len(suffixes) > 1:
        counts = ', '.join(f'{count} {suffix}' for suffix, count in suffixes)
        odd = next(path for path in images if path.suffix == suffixes[-1][0])
        raise DataError(f'{odd}: all images need one suffix, here are {counts}: convert the fewer')


def path_stem(path: Path, folder: Path) -> str:
    """``a/b`` for ``folder/a/b.png``."""
    return path.relative_to(folder).with_suffix('').as_posix()


def best_keys(images: list[str], masks: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The stems of each folder by the part in common, as it gives the most pairs.

    All ways to cut the names are tried on a sample of the images, and only the best of them on all.
    """
    sample = sorted(images)[:: max(len(images) // SAMPLE, 1)]
    of_images = {around: stems_by_key(sample, *around) for around in surroundings(images)}
    of_masks = surroundings(masks)
    fitting = {}
    for around in of_masks:
        known = stems_by_key(masks, *around)
        for cut, keys in of_images.items():
            fitting[cut, around] = sum(key in known for key in keys)
    most = max(fitting.values())
    best: tuple[dict[str, str], dict[str, str]] = {}, {}
    pairs = -1
    for option in itertools.product(of_images, of_masks):
        if fitting[option] == most and pairs < len(images):
            keys, known = stems_by_key(images, *option[0]), stems_by_key(masks, *option[1])
            found = sum(key in known for key in keys)
            if found > pairs:
                best, pairs = (keys, known), found
    return best


def surroundings(stems: list[str]) -> list[tuple[str, str]]:
    """What the names may have before and after the part in common, the least first."""
    names = [stem.rpartition('/')[2] for stem in stems]
    before = common_start(names)
    after = common_start([name[::-1] for name in names])[::-1]
    starts = sorted({'', before, before.rstrip('0123456789')}, key=len)
    ends = [after[len(after) - length :] for length in range(len(after) + 1)]
    return [(start, end) for start in starts for end in ends]


def common_start(names: list[str]) -> str:
    """The characters that all names begin with."""
    first, last = min(names), max(names)
    same = [a == b for a, b in zip(first, last)]
    return first[: [*same, False].index(False)]


def stems_by_key(stems: list[str], before: str, after: str) -> dict[str, str]:
    """The stems by what is between ``before`` and ``after``; none where two would have the same."""
    found: dict[str, str] = {}
    for stem in stems:
        folder, _, name = stem.rpartition('/')
        fits = len(name) >= len(before) + len(after)
        if fits and name.startswith(before) and name.endswith(after):
            key = f'{folder}/{name[len(before) : len(name) - len(after)]}'
            if key in found:
                return {}
            found[key] = stem
    return found


def scan(pairs: Sequence[Pair], in_colours: bool = False) -> list[ImageStatistics]:
    """Read every pair.

    Args:
        in_colours: read masks as colours, see :func:`read_mask`.

    Raises:
        DataError: files are broken, sizes differ, or images are not all of one kind.
    """
    with quiet_opencv(), ThreadPoolExecutor(2) as pool:
        mapped = pool.map(partial(statistics_or_problem, in_colours=in_colours), pairs)
        shown = track(mapped, 'looking at the images', total=len(pairs), transient=True)
        results = list(shown)
    refuse([found for found in results if isinstance(found, str)])
    images = [found for found in results if isinstance(found, ImageStatistics)]
    kinds = Counter((image.channels, image.depth) for image in images)
    usual = max(kinds, key=kinds.__getitem__)
    refuse(
        [
            f'{image.pair.image}: {image.channels} channels of {image.depth}, the others have '
            f'{usual[0]} of {usual[1]}'
            for image in images
            if (image.channels, image.depth) != usual
        ]
    )
    return images


def statistics_or_problem(pair: Pair, in_colours: bool) -> ImageStatistics | str:
    """The statistics of one pair; a line that names the file where that fails."""
    try:
        (image, by_opencv), mask = read_image(pair.image), read_mask(pair.mask, in_colours)
        in_mask = count_values(mask, pair.mask)
    except ImageError as error:
        return str(error)
    except PredictionError as error:
        return f'{pair.image}: {error}'
    if image.shape[:2] != mask.numbers.shape:
        (height, width), (rows, columns) = image.shape[:2], mask.numbers.shape
        return f'{pair.mask}: {columns} x {rows} pixels, but its image has {width} x {height}'
    planes = image.reshape(*image.shape[:2], -1)
    grey = planes.astype(np.float32).mean(2)
    thumbnail = cv2.resize(grey, THUMBNAIL, interpolation=cv2.INTER_AREA)
    values = planes.reshape(-1, planes.shape[2]).astype(np.float64)
    return ImageStatistics(
        pair,
        size=(image.shape[0], image.shape[1]),
        channels=planes.shape[2],
        depth=str(image.dtype),
        values=in_mask,
        thumbnail=thumbnail / max(float(grey.max()), 1),
        total=values.sum(0),
        squares=(values**2).sum(0),
        plain_mask=mask.plain,
        by_opencv=by_opencv,
    )


def read_image(path: Path) -> tuple[np.ndarray, bool]:
    """The pixels as they are in the file, (H, W) or (H, W, C), and whether OpenCV reads it."""
    content = read_bytes(str(path))
    require_whole(content, str(path))
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        if path.suffix.lower() not in RASTER_SUFFIXES:
            raise ImageError(str(path), 'is no image that can be decoded')
        return read_raster(str(path)), False
    return image, True
