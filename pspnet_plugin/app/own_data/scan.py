"""Which mask belongs to which image, what both hold, and what is wrong with them."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from rich.progress import track

from ...errors import ImageError, PredictionError
from ...utils import tiff
from ..errors import DataError, refuse
from ..images.reading import quiet_opencv
from ..images.sources import files_below
from .masks import count_values, read_mask
from .statistics import ImageStatistics, Pair, image_statistics

SUFFIXES = frozenset(
    ['.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp']
)
SAMPLE = 256  # names
LARGE = 16 << 20  # bytes of a file; those that are larger are read one at a time
one_at_a_time = threading.Lock()


def pair_files(images: Path, masks: Path) -> list[Pair]:
    """Pair the files of two folders, with all below them.

    The names of a pair are equal, or have a part in common and around it what all names of their
    folder have: ``street_7_image.jpg`` and ``mask_street_7.png``. Images of several suffixes keep
    theirs in their names.

    Raises:
        DataError: a file has no partner, or two have one name.
    """
    (found, twice), (labels, twice_labels) = by_stem(images), by_stem(masks)
    kinds = ' '.join(sorted(SUFFIXES))
    empty = [folder for folder, files in ((images, found), (masks, labels)) if not files]
    refuse([*(f'{folder}: no images ({kinds})' for folder in empty), *twice, *twice_labels])
    return pair_stems(found, labels)


def pair_stems(found: dict[str, Path], labels: dict[str, Path]) -> list[Pair]:
    """Pair images and masks by their paths without suffixes, see :func:`pair_files`."""
    if not found:
        raise DataError(f'{next(iter(labels.values()))}: no image, and none for any other mask')
    image_keys, mask_keys = best_keys(list(found), list(labels))
    paired = sorted(image_keys.keys() & mask_keys.keys())
    pairs = {image_keys[key]: mask_keys[key] for key in paired}
    lonely = [f'{found[stem]}: no mask' for stem in found.keys() - pairs.keys()]
    lonely += [f'{labels[stem]}: no image' for stem in labels.keys() - set(pairs.values())]
    refuse(sorted(lonely))
    suffixes = {path.suffix for path in found.values()}
    return [
        Pair(stem + found[stem].suffix * (len(suffixes) > 1), found[stem], labels[mask])
        for stem, mask in pairs.items()
    ]


def path_stem(path: Path, folder: Path) -> str:
    """``a/b`` for ``folder/a/b.png``."""
    return path.relative_to(folder).with_suffix('').as_posix()


def by_stem(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The images below a folder by their paths without suffixes, and problems."""
    found: dict[str, Path] = {}
    problems = []
    for path in files_below(folder, SUFFIXES):
        stem = path_stem(path, folder)
        if found.setdefault(stem, path) is not path:
            problems.append(f'{path}: {found[stem].name} has the same name')
    return found, problems


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


def scan(
    pairs: Sequence[Pair], in_colours: bool = False, upright_masks: bool = False
) -> list[ImageStatistics]:
    """Read every pair.

    Args:
        in_colours: read masks as colours, see :func:`read_mask`.
        upright_masks: they lie as images are seen, however these are stored.

    Raises:
        DataError: files are broken, sizes differ, or images are not all of one kind.
    """
    with quiet_opencv(), ThreadPoolExecutor(2) as pool:
        read = partial(statistics_or_problem, in_colours=in_colours, upright_masks=upright_masks)
        mapped = pool.map(read, pairs)
        shown = track(mapped, 'looking at the images', total=len(pairs), transient=True)
        results = list(shown)
    refuse([found for found in results if isinstance(found, str)])
    images = with_known_masks([found for found in results if isinstance(found, ImageStatistics)])
    if not all(image.in_colours for image in images):
        refuse_other_kinds(images)
    return images


def refuse_other_kinds(images: Sequence[ImageStatistics]) -> None:
    """Raise DataError where some images have other channels, or another type, than the most."""
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


def with_known_masks(images: Sequence[ImageStatistics]) -> list[ImageStatistics]:
    """The images with what their sizes cannot tell: whether masks are stored turned as images are.

    Images that are turned upside down or mirrored follow those that are turned by a quarter.

    Raises:
        DataError: there are none, or of both kinds.
    """
    told = {
        image.mask_orientation == image.orientation
        for image in images
        if image.orientation != 1 and image.mask_orientation is not None
    }
    if len(told) != 1:
        refuse([doubt(i.pair.image, i.orientation) for i in images if i.mask_orientation is None])
    are_turned = told == {True}
    return [
        image._replace(mask_orientation=image.orientation if are_turned else 1)
        if image.mask_orientation is None
        else image
        for image in images
    ]


def doubt(image: Path | str, orientation: int) -> str:
    """What is wrong where nothing tells how a mask lies."""
    return (
        f'{image}: is stored turned (EXIF orientation {orientation}), and nothing tells whether '
        'its mask is, too: write the image as its mask lies, without that mark'
    )


def statistics_or_problem(
    pair: Pair, in_colours: bool, upright_masks: bool
) -> ImageStatistics | str:
    """The statistics of one pair; a line that names the file where that fails."""
    try:
        is_large = pair.image.stat().st_size > LARGE
        with one_at_a_time if is_large else contextlib.nullcontext():
            image = image_statistics(pair)
            mask = read_mask(pair.mask, in_colours)
            in_mask = count_values(mask, pair.mask)
            is_elsewhere = tiff.lie_apart(pair.image, pair.mask)
    except ImageError as error:
        return str(error)
    except PredictionError as error:
        return f'{pair.image}: {error}'
    (height, width), (rows, columns) = image.size, mask.numbers.shape
    is_quarter = image.orientation >= 5
    is_known = image.orientation == 1 or upright_masks or mask.was_turned
    mask_orientation: int | None = 1
    if is_quarter and height != width and (rows, columns) == (width, height):
        mask_orientation = image.orientation
    elif (rows, columns) != (height, width):
        return f'{pair.mask}: {columns} x {rows} pixels, but its image has {width} x {height}'
    elif is_elsewhere:
        return f'{pair.mask}: shows another place than its image, as the georeferences of both say'
    elif not is_known and (height == width or not is_quarter):
        mask_orientation = None
    return image._replace(values=in_mask, plain_mask=mask.plain, mask_orientation=mask_orientation)
