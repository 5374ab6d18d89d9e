"""Which mask belongs to which image, by their names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..errors import refuse
from ..images.sources import files_below

SUFFIXES = frozenset(
    ['.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp']
)


class Pair(NamedTuple):
    """An image and its mask."""

    name: str  # the image's path below its folder, without the suffix
    image: Path
    mask: Path


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
    suffixes = Counter(path.suffix for path in found.values())
    if len(suffixes) > 1:
        counts = ', '.join(f'{count} {suffix}' for suffix, count in suffixes.most_common())
        odd = next(p for p in found.values() if p.suffix == suffixes.most_common()[-1][0])
        problems.append(f'{odd}: all images need one suffix, here are {counts}: convert the fewer')
    refuse(problems)
    image_keys, mask_keys = best_keys(list(found), list(labels))
    paired = sorted(image_keys.keys() & mask_keys.keys())
    pairs = {image_keys[key]: mask_keys[key] for key in paired}
    lonely = [f'{found[stem]}: no mask' for stem in found.keys() - pairs.keys()]
    lonely += [f'{labels[stem]}: no image' for stem in labels.keys() - set(pairs.values())]
    refuse(sorted(lonely))
    return [Pair(stem, found[stem], labels[mask]) for stem, mask in pairs.items()]


def path_stem(path: Path, folder: Path) -> str:
    """``a/b`` for ``folder/a/b.png``."""
    return path.relative_to(folder).with_suffix('').as_posix()


def best_keys(images: list[str], masks: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The stems of each folder by the part in common, as it gives the most pairs."""
    of_masks = [stems_by_key(masks, *around) for around in surroundings(masks)]
    options = (
        (image_keys, mask_keys)
        for image_keys in (stems_by_key(images, *around) for around in surroundings(images))
        for mask_keys in of_masks
    )
    return max(options, key=lambda option: len(option[0].keys() & option[1].keys()))


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
