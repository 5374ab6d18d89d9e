"""Where images and masks lie, in two folders or in one as tools export them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import refuse
from ...images.sources import files_below
from ..scan import SUFFIXES, by_stem, pair_files, pair_stems, path_stem
from ..stated_split import side_of_name
from ..statistics import Pair

OF_VOC = ('JPEGImages', 'SegmentationClass')
FOLDERS = (OF_VOC, ('images', 'masks'), ('images', 'labels'), ('images', 'annotations'))
BESIDE = '_mask'  # Roboflow: x.jpg and x_mask.png
IN_OTHER = '_labels'  # CamVid: train/x.png and train_labels/x_L.png
BESIDE_IMAGES = re.compile(
    r'(^|/)(masks|labels|annotations)(?=/|$)'
)  # train/images and train/masks


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


def pairs_of(images: Path, masks: Path) -> list[Pair]:
    """The pairs of the folders that :func:`find_masks` gives; images of VOC need no mask."""
    if images == masks:
        found, labels, twice = told_apart(images)
        refuse(twice)
        return pair_stems(found, labels)
    if masks.name != OF_VOC[1]:
        return pair_files(images, masks)
    (found, _), (labels, twice) = by_stem(images), by_stem(masks)
    refuse(twice)
    return pair_stems({stem: path for stem, path in found.items() if stem in labels}, labels)


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


def sides_of_lists(images: Path, masks: Path, pairs: Sequence[Pair]) -> dict[str, str]:
    """``train``, ``val`` or ``test`` by the names of pairs, as VOC's lists say.

    They are ``ImageSets/Segmentation/train.txt`` and others beside the folder of masks, a name in
    each line, which may have folders, a suffix and more words.

    Raises:
        DataError: one of them names no image at all.
    """
    names = {path_stem(pair.image, images): pair.name for pair in pairs}
    sides: dict[str, str] = {}
    for file in sorted((masks.parent / 'ImageSets' / 'Segmentation').glob('*.txt')):
        if side := side_of_name(file.stem):
            text = file.read_text(encoding='utf-8-sig', errors='replace')
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            listed = {line if line in names else Path(line.split()[0]).stem for line in lines}
            if lines and listed.isdisjoint(names):
                refuse([f'{file}: {lines[0]} is the name of no image, nor is any other line'])
            sides.update((names[name], side) for name in listed & names.keys())
    return sides
