"""Which mask belongs to which image: in two folders, or in one as tools export them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError, refuse
from ..images.sources import files_below

SUFFIXES = frozenset(
    ['.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp']
)
SAMPLE = 256  # names
OF_VOC = ('JPEGImages', 'SegmentationClass')
FOLDERS = (OF_VOC, ('images', 'masks'), ('images', 'labels'), ('images', 'annotations'))
BESIDE = '_mask'  # Roboflow: x.jpg and x_mask.png
IN_OTHER = '_labels'  # CamVid: train/x.png and train_labels/x_L.png
# train/images and train/masks
BESIDE_IMAGES = re.compile(r'(^|/)(masks|labels|annotations)(?=/|$)')


class Pair(NamedTuple):
    """An image and its mask."""

    name: str  # the image's path below its folder, without the suffix where all have the same
    image: Path
    mask: Path


def find_masks(images: Path, masks: Path) -> tuple[Path, Path] | None:
    """The folders of images and of masks at two paths, which may be one; None without masks."""
    if not masks.is_dir():
        return None
    inside = masks.resolve()
    if inside == images.resolve() or inside in images.resolve().parents:
        for image_folder, mask_folder in FOLDERS:
            if (masks / image_folder).is_dir() and has_images(masks / mask_folder):
                return masks / image_folder, masks / mask_folder
        return (masks, masks) if told_apart(masks)[1] else None
    if has_images(masks / OF_VOC[1]):
        return images, masks / OF_VOC[1]
    return (images, masks) if has_images(masks) else None


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return folder.is_dir() and any(True for _ in files_below(folder, SUFFIXES))


def pair_files(images: Path, masks: Path) -> list[Pair]:
    """Pair the files of two folders, or of one, with all below them.

    The names of a pair are equal, or have a part in common and around it what all names of their
    folder have: ``street_7_image.jpg`` and ``mask_street_7.png``. Images of several suffixes keep
    theirs in their names. Images of VOC need no mask.

    Raises:
        DataError: a file has no partner, or two have one name.
    """
    if images == masks:
        found, labels, problems = told_apart(images)
    else:
        (found, twice), (labels, problems) = by_stem(images), by_stem(masks)
        if masks.name == OF_VOC[1]:
            found = {stem: path for stem, path in found.items() if stem in labels}
        else:
            kinds = ' '.join(sorted(SUFFIXES))
            empty = [folder for folder, there in ((images, found), (masks, labels)) if not there]
            problems = [*(f'{folder}: no images ({kinds})' for folder in empty), *twice, *problems]
    refuse(problems)
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


def told_apart(folder: Path) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
    """The images and masks of one folder, by what both have in common in their paths, and problems.

    A problem is a line for a file whose name another one has.
    """
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    twice = []
    for path in files_below(folder, SUFFIXES):
        stem = path_stem(path, folder)
        parent, _, name = stem.rpartition('/')
        of_images = BESIDE_IMAGES.sub(r'\1images', parent, count=1)
        if of_images != parent and (folder / of_images).is_dir():
            stem, found = f'{of_images}/{name}', masks
        elif name.endswith(BESIDE) or parent.endswith(IN_OTHER):
            parent, name = parent.removesuffix(IN_OTHER), name.removesuffix(BESIDE)
            stem, found = f'{parent}/{name}'.lstrip('/'), masks
        else:
            found = images
        if found.setdefault(stem, path) is not path:
            twice.append(f'{path}: {found[stem].name} has the same name')
    return images, masks, twice
