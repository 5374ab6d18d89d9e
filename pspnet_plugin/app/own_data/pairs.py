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
    """An image and its mask.

    Attributes:
        name: the image's path below its folder, without the suffix.
    """

    name: str
    image: Path
    mask: Path


class Naming(NamedTuple):
    """What surrounds, in a folder, the part of the names that image and mask have in common."""

    before: str
    after: str

    def key(self, stem: str) -> str | None:
        """The common part of a name; None for a name that is not of this form."""
        folder, _, name = stem.rpartition('/')
        fits = len(name) >= len(self.before) + len(self.after)
        if not (fits and name.startswith(self.before) and name.endswith(self.after)):
            return None
        middle = name[len(self.before) : len(name) - len(self.after)]
        return f'{folder}/{middle}'


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
    lonely = [f'{found[s]}: no mask' for key, s in image_keys.items() if key not in mask_keys]
    lonely += [f'{labels[s]}: no image' for key, s in mask_keys.items() if key not in image_keys]
    lonely += [f'{found[s]}: no mask' for s in found.keys() - set(image_keys.values())]
    lonely += [f'{labels[s]}: no image' for s in labels.keys() - set(mask_keys.values())]
    refuse(sorted(lonely))
    return [
        Pair(stem, found[stem], labels[mask_keys[key]]) for key, stem in sorted(image_keys.items())
    ]


def path_stem(path: Path, folder: Path) -> str:
    """``a/b`` for ``folder/a/b.png``."""
    return path.relative_to(folder).with_suffix('').as_posix()


def best_keys(images: list[str], masks: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """For each folder its stems by their common part, under the naming with the most pairs."""
    options = [
        (keys(images, image_naming), keys(masks, mask_naming))
        for image_naming in namings(images)
        for mask_naming in namings(masks)
    ]
    return max(options, key=lambda option: len(option[0].keys() & option[1].keys()))


def namings(stems: list[str]) -> list[Naming]:
    """What the names may have around the common part, the least first."""
    names = [stem.rpartition('/')[2] for stem in stems]
    before = common_start(names)
    after = common_start([name[::-1] for name in names])[::-1]
    starts = sorted({'', before, before.rstrip('0123456789')}, key=len)
    ends = [after[len(after) - length :] for length in range(len(after) + 1)]
    return [Naming(start, end) for start in starts for end in ends]


def common_start(names: list[str]) -> str:
    """The characters that all names begin with."""
    first, last = min(names), max(names)
    same = [a == b for a, b in zip(first, last)]
    return first[: [*same, False].index(False)]


def keys(stems: list[str], naming: Naming) -> dict[str, str]:
    """The stems of this form by their common part; none where two would have the same."""
    found = {}
    for stem in stems:
        key = naming.key(stem)
        if key is not None and key in found:
            return {}
        if key is not None:
            found[key] = stem
    return found
